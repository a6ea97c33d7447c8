"""`vlv serve`."""

from pathlib import Path
from typing import Annotated

import typer

from vlv.cli.options import (
    DEFAULT_MODEL,
    DeviceOption,
    DtypeOption,
    ModelOption,
    QuantizationOption,
    RevisionOption,
)
from vlv.errors import ConfigError
from vlv.text import decode_text


def serve(
    model: ModelOption = DEFAULT_MODEL,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="VLV_API_KEY",
            help="What requests must carry as `Authorization: Bearer KEY`.",
            show_default=False,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="A file of keys, one a line.", show_default=False),
    ] = None,
    queue_size: Annotated[
        int, typer.Option("--queue-size", min=1, help="Requests at once; more get 429.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds that a request may take.")
    ] = 120,
    drain_seconds: Annotated[
        float,
        typer.Option("--drain-seconds", min=0, help="Seconds to finish requests after SIGTERM."),
    ] = 30,
    max_body_mb: Annotated[
        float, typer.Option("--max-body-mb", min=0.01, help="Largest request, in MB.")
    ] = 20,
    max_connections: Annotated[
        int,
        typer.Option(
            "--max-connections",
            min=1,
            help="Connections at once; beyond them the one that is idle longest is closed.",
        ),
    ] = 512,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            help="A page of this origin, as http://localhost:3000, may ask from browsers; may be "
            "given several times.",
            show_default="none",
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path",
            help="What a reverse proxy has before every path, as /vlv.",
            show_default="none",
        ),
    ] = "",
    allow_image_hosts: Annotated[
        str | None,
        typer.Option(
            "--allow-image-hosts",
            help="Hosts that images may be fetched from, as a,b; *.example.org is all below it.",
            show_default="none",
        ),
    ] = None,
    allow_image_ports: Annotated[
        str, typer.Option("--allow-image-ports", help="Ports of those hosts that may be asked.")
    ] = "80,443",
    allow_image_networks: Annotated[
        str | None,
        typer.Option(
            "--allow-image-networks",
            help="Addresses of those hosts that may be asked though they are not public, as "
            "10.1.0.0/16,...",
            show_default="none",
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, help="Captions that are written together.")
    ] = 16,
    max_pictures: Annotated[
        int, typer.Option("--max-pictures", min=1, help="Pictures that are drawn together.")
    ] = 4,
    stall_seconds: Annotated[
        float,
        typer.Option(
            "--stall-seconds",
            min=1,
            help="Longest that one layer of the model may take; its process is replaced where one "
            "takes longer.",
        ),
    ] = 300,
    served_name: Annotated[
        str | None,
        typer.Option(
            "--served-model-name",
            help="The model's name in the API.",
            show_default="the last part of --model",
        ),
    ] = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
) -> None:
    """Serve captions and pictures over HTTP, to OpenAI's clients too, and a page to try them.

    Without a key only this machine is served. Needs the extra `serve`.
    """
    try:
        from vlv.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serving needs {error.name}; run: pip install -c constraints.txt 'vlv[serve]'"
        ) from error
    from vlv.serving.http.auth import check_origins, check_root_path
    from vlv.serving.settings import ImageHosts, ServeSettings, WorkerSettings

    run(
        ServeSettings(
            worker=WorkerSettings(
                model=model,
                name=served_name or Path(model).name,
                revision=revision,
                device=device,
                dtype=dtype,
                quantization=quantization,
                max_batch=max_batch,
                max_pictures=max_pictures,
                stall_seconds=stall_seconds,
            ),
            host=host,
            port=port,
            api_keys=_keys(api_key, api_key_file),
            queue_size=queue_size,
            timeout=timeout,
            drain_seconds=drain_seconds,
            max_body_mb=max_body_mb,
            max_connections=max_connections,
            origins=check_origins([one for text in allow_origin or () for one in _listed(text)]),
            root_path=check_root_path(root_path),
            image_hosts=ImageHosts(
                _listed(allow_image_hosts), _ports(allow_image_ports), _listed(allow_image_networks)
            ),
        )
    )


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (text or "").split(",")))


def _ports(text: str) -> tuple[int, ...]:
    if not all(port.isdecimal() and 0 < int(port) < 65536 for port in _listed(text)):
        raise ConfigError(f"--allow-image-ports takes numbers of ports, as 80,443, not {text!r}")
    return tuple(int(port) for port in _listed(text))


def _keys(key: str | None, file: Path | None) -> tuple[str, ...]:
    try:
        lines = decode_text(file.read_bytes()).splitlines() if file else []
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{file} holds no keys ({error})") from error
    keys = tuple(line.strip() for line in [key or "", *lines] if line.strip())
    if file and not any(line.strip() for line in lines):
        raise ConfigError(f"{file} holds no key; write one a line")
    return keys
