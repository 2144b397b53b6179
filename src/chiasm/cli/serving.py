"""The verb that serves a run over HTTP, with a web page.

`serve` has more than eight arguments because each is an option of the command line.
"""

from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.shared import Run, SetDecoding, load, notes, say


# More than eight arguments: each is an option of the command line, which typer reads from the signature.
def serve(
    run: Run,
    index: Annotated[Path | None, typer.Option(help="An index made by `chiasm index build`.", metavar="INDEX")] = None,
    rank_by: Annotated[
        Path | None,
        typer.Option(help="A run that ranks drawn images, for requests with best_of.", metavar="RUN"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File, mode 0600, with the token that clients must send. Or set CHIASM_TOKEN.")
    ] = None,
    allow_domain: Annotated[
        list[str] | None, typer.Option(help="Host that images may be fetched from by https; may be repeated.")
    ] = None,
    queue: Annotated[int, typer.Option(help="Largest number of queued rows; further requests get 503.", min=1)] = 64,
    batch: Annotated[int, typer.Option(help="Largest batch size, in rows.", min=1)] = 32,
    timeout: Annotated[float, typer.Option(help="Time limit of an answer, in seconds.", min=0.1)] = 30.0,
    max_pixels: Annotated[
        int, typer.Option(help="Largest number of pixels of an image; decoding takes up to 8 bytes per pixel.", min=1)
    ] = 25_000_000,
    set_: SetDecoding = None,
) -> None:
    """Serve a run: HTTP API, OpenAI-shaped routes, and a web page.

    Example: chiasm serve runs/demo --port 8000
    """
    _check_extra()
    from chiasm.serve.http.server import listen
    from chiasm.serve.http.server import serve as run_server
    from chiasm.serve.http.service import Service, name_of
    from chiasm.serve.http.settings import ServerSettings, read_token

    settings = ServerSettings(
        host=host,
        port=port,
        token=read_token(token_file),
        allow_domains=tuple(allow_domain or ()),
        queue_rows=queue,
        max_rows=batch,
        max_items=min(batch, queue),
        timeout_s=timeout,
        max_pixels=max_pixels,
    )
    settings.check()
    listen(host, port).close()  # fail on a port in use before loading the model
    model = load(run, set_)
    opened = None
    if index is not None:
        from chiasm.serve.index import open_index

        opened = open_index(index, model)
    ranker = None if rank_by is None else load(rank_by)
    notes().print(f"{name_of(str(run))}: {', '.join(model.tasks)}", highlight=False)
    service = Service(model, name_of(str(run)), settings, opened, ranker)
    run_server(service, lambda address: say(f"serving at {address}"))


def _check_extra() -> None:
    """Refuse to serve without the libraries that it needs.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    from chiasm.core.errors import MissingExtraError

    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtraError("fastapi", "serve") from None
