"""Writes a web page that classifies pictures with a .tflite file in the browser.

mnasnet-demo-page --model=EXPORT_DIR/mnasnet-a1.tflite --output_dir=PAGE --serve picture.jpg ...

The page is a folder of static files. It loads nothing from other hosts, and no picture leaves the
browser. Browsers load it from a web server alone: --serve is one for this machine.
"""

from __future__ import annotations

from utils.base import files, program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    from utils.exporting import classifiers
    from utils.showing import demo

DEFAULT_PORT = 8000


def main(argv: list[str]) -> None:
    """Writes the page, and serves it until a signal if it should."""
    parser = program.ArgumentParser(
        prog="mnasnet-demo-page", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", required=True, help="a .tflite file")
    parser.add_argument("--output_dir", required=True, help="folder for the page")
    parser.add_argument("--labels", help="file of class names, one a line (default: the model's)")
    parser.add_argument("--serve", action="store_true", help="serve the page to this machine")
    parser.add_argument(
        "--port", type=int, help=f"port to serve on, 0 for a free one (default: {DEFAULT_PORT})"
    )
    parser.add_argument(
        "pictures", nargs="*", metavar="PICTURE", help="pictures that visitors can try"
    )
    arguments = parser.parse_args(argv[1:])
    _check(arguments)
    demo.write(arguments.model, arguments.output_dir, arguments.pictures, arguments.labels)
    if arguments.serve:
        _serve(arguments.output_dir, DEFAULT_PORT if arguments.port is None else arguments.port)
    else:
        print(f"Wrote {arguments.output_dir}: a web server of yours or --serve shows the page.")


def _check(arguments) -> None:
    if not classifiers.is_tflite(arguments.model):
        raise UserError(f"--model={arguments.model} is not a .tflite file: browsers run no other.")
    if not tf.io.gfile.exists(arguments.model):
        raise UserError(f"--model={arguments.model} does not exist: export a model first.")
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise UserError(f"--port={arguments.port} is invalid: it must be in 0..65535.")
    if arguments.port is not None and not arguments.serve:
        raise UserError("--port without --serve does nothing: add --serve or leave it out.")
    if arguments.serve and files.is_remote(arguments.output_dir):
        raise UserError(
            f"--serve cannot serve {arguments.output_dir}: name a local folder, or leave --serve "
            "out and let the bucket serve the page."
        )


def _serve(folder: str, port: int) -> None:
    with demo.open_server(folder, port) as web:
        print(f"The page is at {demo.address(web)} (Ctrl-C ends it).", flush=True)
        web.serve_forever()


def console() -> None:
    """Runs the console command `mnasnet-demo-page`."""
    program.run(main)


if __name__ == "__main__":
    console()
