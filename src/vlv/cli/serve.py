"""`vlv serve`: captions and images over HTTP."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlv.cli.option_groups import EngineOptions, ModelOptions
from vlv.cli.options.headings import ACCESS, MODEL, NETWORK, PERFORMANCE
from vlv.cli.options.model import QuantizationOption
from vlv.errors import ConfigError
from vlv.text import decode_text

if TYPE_CHECKING:
    from vlv.serving.http.keys import ApiKey


def serve(
    model_options: ModelOptions,
    engine_options: EngineOptions,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on.", rich_help_panel=NETWORK)
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", min=1, max=65535, help="Port to listen on.", rich_help_panel=NETWORK
        ),
    ] = 8000,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path",
            help="Path prefix of a reverse proxy, such as /vlv.",
            show_default="none",
            rich_help_panel=NETWORK,
        ),
    ] = "",
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="VLV_API_KEY",
            help="Key that requests must carry as `Authorization: Bearer KEY`.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="A file of keys, one per line, optionally as `name: key` with quotas.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    quota_file: Annotated[
        Path | None,
        typer.Option(
            "--quota-file",
            help="File that keeps the images of the day of each key, for the next start.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            help="Web origin whose pages may send requests (CORS), such as http://localhost:3000. "
            "May be repeated.",
            show_default="none",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allow_image_hosts: Annotated[
        str | None,
        typer.Option(
            "--allow-image-hosts",
            help="Hosts that images may be fetched from, separated by commas. *.example.org means "
            "all hosts below it.",
            show_default="none",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allow_image_ports: Annotated[
        str,
        typer.Option(
            "--allow-image-ports",
            help="Ports of those hosts that images may be fetched from.",
            rich_help_panel=ACCESS,
        ),
    ] = "80,443",
    allow_image_networks: Annotated[
        str | None,
        typer.Option(
            "--allow-image-networks",
            help="Private networks that those hosts may be in, such as 10.1.0.0/16, separated by "
            "commas.",
            show_default="none",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    queue_size: Annotated[
        int,
        typer.Option(
            "--queue-size",
            min=1,
            help="Requests at the same time. Further requests are answered with 429.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 64,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=1,
            help="Seconds that a request may take.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 120,
    drain_seconds: Annotated[
        float,
        typer.Option(
            "--drain-seconds",
            min=0,
            help="Seconds for requests to finish after SIGTERM.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 30,
    max_body_mb: Annotated[
        float,
        typer.Option(
            "--max-body-mb",
            min=0.01,
            max=64,  # `vlv.text.MAX_JSON_BYTES`
            help="Largest request body, in MB.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 20,
    max_connections: Annotated[
        int,
        typer.Option(
            "--max-connections",
            min=1,
            help="Open connections. When there are more, the one that is idle longest is closed.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 512,
    max_batch: Annotated[
        int,
        typer.Option(
            "--max-batch",
            min=1,
            help="Captions that are generated in one batch.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 16,
    max_pictures: Annotated[
        int,
        typer.Option(
            "--max-pictures",
            min=1,
            help="Images that are generated in one batch.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 4,
    stall_seconds: Annotated[
        float,
        typer.Option(
            "--stall-seconds",
            min=1,
            help="Seconds that one layer of the model may take before its process is replaced.",
            rich_help_panel=PERFORMANCE,
        ),
    ] = 300,
    served_name: Annotated[
        str | None,
        typer.Option(
            "--served-model-name",
            help="Name of the model in the API.",
            show_default="the last part of --model",
            rich_help_panel=MODEL,
        ),
    ] = None,
    quantization: QuantizationOption = None,
) -> None:
    """Serve captions and images over HTTP, with an OpenAI-compatible API and a web page.

    Without a key only this machine can connect. Needs the extra `serve`.
    """
    try:
        from vlv.serving.server import serve as run_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serving needs {error.name}; run: pip install -c constraints.txt 'vlv[serve]'"
        ) from error
    from vlv.serving.http.auth import check_origins, check_root_path
    from vlv.serving.settings import ImageHosts, ServeSettings, WorkerSettings

    keys = _keys(api_key, api_key_file)
    if quota_file is not None and not keys:
        raise ConfigError("--quota-file keeps what keys have used, and there are none; add one")
    if allow_image_networks is not None and allow_image_hosts is None:
        raise ConfigError(
            "--allow-image-networks is about the hosts of --allow-image-hosts; name those too"
        )
    run_server(
        ServeSettings(
            worker=WorkerSettings(
                model=model_options.model,
                # `.` and `..` have no last part.
                name=served_name or Path(os.path.abspath(model_options.model)).name,
                revision=model_options.revision,
                device=model_options.device,
                dtype=model_options.dtype,
                quantization=quantization,
                engine=engine_options.engine,
                engine_url=engine_options.engine_url,
                max_batch=max_batch,
                max_pictures=max_pictures,
                stall_seconds=stall_seconds,
            ),
            host=host,
            port=port,
            api_keys=keys,
            quota_file=quota_file,
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
    return tuple(filter(None, map(str.strip, (text or "").split(","))))


def _ports(text: str) -> tuple[int, ...]:
    if not all(port.isdecimal() and 0 < int(port) < 65536 for port in _split(text)):
        raise ConfigError(f"--allow-image-ports must be port numbers such as 80,443, not {text!r}")
    return tuple(int(port) for port in _split(text))


def _keys(key: str | None, file: Path | None) -> "tuple[ApiKey, ...]":
    from vlv.serving.http.keys import parse_keys, plain_key

    # Click takes an empty variable for none.
    given = os.environ.get("VLV_API_KEY") if key is None else key
    if given is not None and not given.strip():
        raise ConfigError(
            "the key of --api-key or VLV_API_KEY is empty; give one, or leave it out to serve this "
            "machine without a key"
        )
    keys = () if given is None else (plain_key("default", given.strip()),)
    if file is None:
        return keys
    try:
        found = parse_keys(decode_text(file.read_bytes()).splitlines(), file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not a text file with keys ({error})") from error
    if not found:
        raise ConfigError(f"{file} contains no key; write one key a line")
    return (*keys, *found)
