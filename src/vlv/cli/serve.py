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
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="VLV_API_KEY",
            help="Key that requests must send as `Authorization: Bearer KEY`.",
            show_default=False,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="A file with one key a line.", show_default=False),
    ] = None,
    queue_size: Annotated[
        int, typer.Option("--queue-size", min=1, help="Accepted requests at once; more get 429.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Longest time for a request, in seconds.")
    ] = 120,
    drain_seconds: Annotated[
        float,
        typer.Option(
            "--drain-seconds", min=0, help="Seconds to finish accepted requests after SIGTERM."
        ),
    ] = 30,
    max_body_mb: Annotated[
        float, typer.Option("--max-body-mb", min=0.01, help="Largest request body, in MB.")
    ] = 20,
    max_connections: Annotated[
        int,
        typer.Option(
            "--max-connections",
            min=1,
            help="Connections at once; beyond them, the one that has been idle longest is closed.",
        ),
    ] = 512,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            help="Origin whose web pages may send requests, as http://localhost:3000; may be given "
            "several times.",
            show_default="none",
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path",
            help="Prefix that a reverse proxy puts before every path, as /vlv.",
            show_default="none",
        ),
    ] = "",
    allow_image_hosts: Annotated[
        str | None,
        typer.Option(
            "--allow-image-hosts",
            help="Hosts that images may be fetched from, as a,b; *.a.org means its subdomains.",
            show_default="none",
        ),
    ] = None,
    allow_image_ports: Annotated[
        str, typer.Option("--allow-image-ports", help="Ports that are allowed on those hosts.")
    ] = "80,443",
    allow_image_networks: Annotated[
        str | None,
        typer.Option(
            "--allow-image-networks",
            help="Non-public addresses of those hosts that are allowed too, as 10.1.0.0/16,...",
            show_default="none",
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, help="Captions in one batch.")
    ] = 16,
    max_pictures: Annotated[
        int, typer.Option("--max-pictures", min=1, help="Generated images in one batch.")
    ] = 4,
    stall_seconds: Annotated[
        float,
        typer.Option(
            "--stall-seconds",
            min=1,
            help="Longest time for one layer of the model, in seconds; if one takes longer, the "
            "model's process is replaced.",
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
    """Serve captions and images over HTTP, for OpenAI's clients too, with a web page to try them.

    Without a key, the server serves only this machine. Needs the extra `serve`.
    """
    try:
        from vlv.serving.server import serve as run_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serving needs {error.name}; run: pip install -c constraints.txt 'vlv[serve]'"
        ) from error
    from vlv.serving.http.auth import check_origins, check_root_path
    from vlv.serving.settings import ImageHosts, ServeSettings, WorkerSettings

    run_server(
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
            origins=check_origins([one for text in allow_origin or () for one in _split(text)]),
            root_path=check_root_path(root_path),
            image_hosts=ImageHosts(
                _split(allow_image_hosts), _ports(allow_image_ports), _split(allow_image_networks)
            ),
        )
    )


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (text or "").split(",")))


def _ports(text: str) -> tuple[int, ...]:
    if not all(port.isdecimal() and 0 < int(port) < 65536 for port in _split(text)):
        raise ConfigError(f"--allow-image-ports takes port numbers, as 80,443, not {text!r}")
    return tuple(int(port) for port in _split(text))


def _keys(key: str | None, file: Path | None) -> tuple[str, ...]:
    try:
        lines = decode_text(file.read_bytes()).splitlines() if file else []
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not a text file with keys ({error})") from error
    keys = tuple(line.strip() for line in [key or "", *lines] if line.strip())
    if file and not any(line.strip() for line in lines):
        raise ConfigError(f"{file} contains no key; write one key a line")
    return keys
