"""What `up` refuses before anything starts: addresses, checkpoints, services by URL."""

import re
from collections.abc import Mapping
from pathlib import Path

from prefill_fleet.service_urls import refuse_postgres, refuse_redis
from prefill_wire.loopback import is_loopback

from prefill_stack.errors import NotConfigured

ANY_PORT = "127.0.0.1:0"
GREATEST_PORT = 65535
TENANT_NAME = re.compile(r"\w[\w .-]{0,63}")


def parse_checkpoints(options: list[str]) -> dict[str, Path]:
    """NAME=FOLDER options as a mapping; the shipped models when there are none."""
    from prefill_stack import shipped

    if not options:
        return {name: shipped.checkpoint(name) for name in (shipped.CODE_LM, shipped.MQAR)}
    pairs = {}
    for option in options:
        name, separator, folder = option.partition("=")
        if not (name and separator and folder):
            raise NotConfigured(
                f"--checkpoint {option!r} is not NAME=FOLDER",
                "example: --checkpoint my-model=./dir",
            )
        pairs[name] = Path(folder).resolve()
    return pairs


def parse_tenants(options: list[str]) -> tuple[str, ...]:
    """Names of accounts, which files are named after; `demo` when there are none."""
    for name in options:
        if not TENANT_NAME.fullmatch(name):
            raise NotConfigured(
                f"--tenant {name[:40]!r} cannot be a file's name",
                "use up to 64 letters, digits, blanks, dots, underscores and dashes",
            )
    return tuple(options or ["demo"])


def check_models(checkpoints: Mapping[str, Path], profile: str) -> None:
    """Refuse folders without a checkpoint that the engine computes, and unknown profiles."""
    from prefill_engine.checkpoint_folder import read_config, weight_files
    from prefill_engine.errors import EngineError
    from prefill_engine.schema import latent_dtype, state_schema

    latent_dtype(profile)
    for name, folder in checkpoints.items():
        if not (folder / "config.json").exists():
            raise NotConfigured(
                f"the checkpoint folder of {name} has no config.json: {folder}",
                "name a Hugging Face checkpoint folder, as NAME=FOLDER",
            )
        try:
            state_schema(read_config(folder), profile)
            weight_files(folder)
        except EngineError as error:
            raise NotConfigured(f"checkpoint {name}: {error.message}", error.remedy) from error


def check_services(database_url: str, redis_url: str) -> None:
    """Refuse services that would be reached in plain text over a network."""
    named = (
        (database_url, refuse_postgres, "--database-url"),
        (redis_url, refuse_redis, "--redis-url"),
    )
    for url, refuse, option in named:
        if url and (refusal := refuse(url)):
            raise NotConfigured(f"{option}: {refusal.message}", refusal.remedy)


def on_loopback(listen: str) -> bool:
    """Whether only this machine reaches HOST:PORT; NotConfigured when it is neither."""
    host, _, port = listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) <= GREATEST_PORT):
        raise NotConfigured(f"{listen!r} is not HOST:PORT", "example: 127.0.0.1:7080")
    return is_loopback(host.strip("[]"))


def check_platform(api_listen: str, listen: str, tls: bool | None, tls_host: list[str]) -> None:
    """Refuse, before anything starts, what the platform here does not do."""
    if listen != ANY_PORT or tls is not None or tls_host:
        raise NotConfigured(
            "--listen, --tls and --tls-host go with --small", "add --small, or leave them out"
        )
    if not on_loopback(api_listen):
        raise NotConfigured(
            f"--api-listen {api_listen}: the REST API here speaks plain HTTP, so loopback alone",
            "listen on 127.0.0.1, and put a proxy that speaks TLS before it",
        )


def with_tls(listen: str, wish: bool | None) -> bool:
    """Off only on loopback: whoever else could listen in must not read prompts."""
    loopback = on_loopback(listen)
    if not loopback and wish is False:
        raise NotConfigured(
            f"--no-tls goes with a loopback address, and {listen} is none",
            "leave --no-tls out, or listen on 127.0.0.1",
        )
    return not loopback if wish is None else wish
