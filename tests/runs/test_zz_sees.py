from test_llava_runs import *
def test_long(language, tmp_path):
    config = seeing(language, frozen=False, pictures=400, steps=1600, batch_size=16, lr=2e-3, validate_every=200)
    found = trained(config, tmp_path / "sees")
    for l in (tmp_path/"sees"/"metrics.jsonl").read_text().splitlines():
        if "val" in l: print(l[:400])
    print("GAP", gap(found))
