"""The numbers that the texts tell: `python benchmarks/claims.py list | run NAME [--keep] | stale | check | table`.

benchmarks/claims*.toml say, for each command that printed numbers, where they stand in README, docs and recipes, in
which file of benchmarks/results they are stored, and which code they depend on.

- `list` shows every claim with date, commit, and whether its code is still that of the commit.
- `run NAME` runs the command again and compares what it writes with the stored 95 % intervals; exit 1 outside of them.
  The data are found through CHIASM_DATA (default ../shared/data); run folders go to runs/claims/NAME. With `--keep` the
  new result takes the place of the stored one, if the code is a commit; `check` then says which texts to change.
- `stale` names the claims whose command no longer parses or whose code has changed since; exit 1 if there are any.
- `check` names numbers of the texts without a claim, and claims whose number or text is gone; exit 1 if any.
- `table` writes docs/results.md anew, between its marks.
"""

import sys

import claims_code
import claims_texts
from claims_run import run
from claims_stored import ROOT, WORK, Claim, claims, node_at, settings

PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"


def faults() -> list[str]:
    """Where texts and claims are out of step, one sentence each."""
    found = []
    covered: dict[str, dict[str, list[Claim]]] = {}
    for claim in claims().values():
        own = []
        for name, fragments in claim.texts.items():
            for fragment in fragments:
                rows = claims_texts.named(claims_texts.blocks(name), fragment)
                if len({block.header or block.text for block in rows}) != 1:
                    found.append(f"{claim.name}: {len(rows)} blocks of {name} have {fragment!r}, where one should")
                own += rows
                for block in rows:
                    covered.setdefault(name, {}).setdefault(block.text, []).append(claim)
        told = {score for block in own for score in block.scores}
        found += [f"{claim.name}: {score} stands in none of its texts" for score in claim.listed if score not in told]
    known_settings = settings()
    for name in claims_texts.texts():
        blocks = claims_texts.blocks(name)
        aside = {block.text for text in known_settings.get(name, []) for block in claims_texts.named(blocks, text)}
        for block in blocks:
            behind = covered.get(name, {}).get(block.text, [])
            if block.text in aside or not (block.scores or block.costs):
                continue
            if not behind:
                found.append(f"{name}: no claim has {', '.join(block.scores + block.costs)} of {block.text[:60]!r}")
            whose = ", ".join(claim.name for claim in behind)
            found += [
                f"{name}: {score} is in no stored result of {whose}: {block.text[:60]!r}"
                for score in block.scores
                if behind and not _is_backed(score, behind)
            ]
    return found


def _is_backed(score: str, behind: list[Claim]) -> bool:
    if any(score in claim.listed for claim in behind):
        return True
    return any(claims_texts.is_stored(score, list(claims_texts.numbers(claim.result))) for claim in behind)


def state(claim: Claim) -> str:
    """`current`, or why the claim is stale."""
    untyped = claims_code.cannot_be_typed(claim.typed(WORK / claim.name))
    if untyped:
        return f"cannot be typed: {untyped}"
    if not claims_code.is_known(claim.facts[1].removesuffix("-dirty")):
        return "stale: of no commit that this history has"
    changed = claim.changed
    held = f" (since then held by golden {claim.gate})" if claim.gate else ""
    return f"stale: {len(changed)} files changed{held}" if changed else f"current{held}"


def table() -> str:
    """The rows of docs/results.md."""
    lines = [
        "| command and data | metric | score | 95 % interval | n | images shuffled | measured |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for claim in claims().values():
        date, commit, _ = claim.facts
        for number, row in enumerate(claim.rows):
            score = node_at(claim.result, row.score)
            blind = node_at(claim.result, row.shuffled) if row.shuffled else None
            shuffled = "" if blind is None else f"{blind['value'] if isinstance(blind, dict) else blind:.3f}"
            cells = (
                claim.setting if not number else "",
                row.metric,
                f"{score['value']:.3f}",
                f"{score['low']:.3f}-{score['high']:.3f}",
                f"{score['n']:,}",
                shuffled,
                f"{date}, {commit}" if not number else "",
            )
            lines.append("| " + " | ".join(cells).replace("|  |", "| |") + " |")
    return "\n".join(lines)


def page() -> str:
    """docs/results.md with the table as it must be."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


def show() -> None:
    """Print all claims as a table, the command of each below its row."""
    wide = max(len(name) for name in claims())
    print(f"{'claim':{wide}}  {'date':10}  {'commit':13}  {'seed':7}  {'machine':22}  {'places':>6}  state")
    for name, claim in claims().items():
        date, commit, machine = claim.facts
        places = sum(len(fragments) for fragments in claim.texts.values())
        kept = "" if claim.stored else "; not stored"
        row = f"{name:{wide}}  {date:10}  {commit or '-':13}  {claim.seed:7}  {machine:22}  {places:>6}"
        print(f"{row}  {state(claim)}{kept}\n    {claim.command}")


def main() -> int:
    """Do what the first word says."""
    words = sys.argv[1:] or ["--help"]
    if words[0] == "list":
        show()
    elif words[0] == "run" and words[1:2] and words[1] in claims() and words[2:] in ([], ["--keep"]):
        return run(words[1], is_kept="--keep" in words)
    elif words[0] == "stale":
        found = {name: state(claim) for name, claim in claims().items()}
        late = {name: why for name, why in found.items() if not why.startswith("current")}
        print("\n".join(f"{name}: {why}" for name, why in late.items()) or "no claim is stale")
        return int(bool(late))
    elif words[0] == "check":
        found_faults = faults()
        print("\n".join(found_faults) or "texts and claims are in step")
        return int(bool(found_faults))
    elif words[0] == "table":
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(__doc__, "\nClaims:", ", ".join(claims()), file=sys.stderr)
        return 0 if words[0] in ("--help", "-h") else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
