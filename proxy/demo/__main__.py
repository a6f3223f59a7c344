"""`python -m proxy.demo --port 21002 --model NAME`: one demonstration worker, to try things on."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import click

from proxy.demo.worker import DemoWorker


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=21002, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option("--model", "models", multiple=True, default=["demo-chat"], show_default=True, help="Repeatable.")
@click.option(
    "--chunks-per-second", default=20.0, show_default=True, type=click.FloatRange(min=0), help="0: as fast as it can."
)
@click.option("--words", default=40, show_default=True, type=click.IntRange(min=0), help="How far an answer counts.")
@click.option("--concurrency", default=5, show_default=True, type=click.IntRange(min=1), help="Requests at a time.")
@click.option("--context-length", default=4096, show_default=True, type=click.IntRange(min=64), help="In tokens.")
def main(
    host: str,
    port: int,
    models: tuple[str, ...],
    chunks_per_second: float,
    words: int,
    concurrency: int,
    context_length: int,
) -> None:
    """Serve one demonstration worker until it is interrupted."""
    worker = DemoWorker(
        models,
        chunks_per_second=chunks_per_second,
        words=words,
        concurrency=concurrency,
        context_length=context_length,
    )
    try:
        asyncio.run(_serve(worker, host, port))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


async def _serve(worker: DemoWorker, host: str, port: int) -> None:
    address = await worker.start(host, port)
    click.echo(f"demonstration worker on {address} serves {', '.join(worker.models)}; try:")
    click.echo(
        f"""curl -sN {address}/worker_generate_stream -d '{{"model": "{worker.models[0]}", """
        """"prompt": "USER: Hello! ASSISTANT:", "echo": false}' | tr '\\000' '\\n'"""
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not every event loop can watch signals; there an interrupt ends the program with its usual exception.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await worker.stop()


if __name__ == "__main__":
    main()
