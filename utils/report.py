"""Writes a page that shows what a model does with each picture of a data set.

mnasnet-report --model=MODEL_DIR --data_dir=DATA --output_dir=REPORT

The page, report.html, is one file that opens from the disk: accuracy, confused classes, probable
mistakes in the labels, calibration, curves of the training. report.json has the figures, and
predictions.csv a line for each picture.
"""

from __future__ import annotations

from utils.base import files, program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later

with importing_later():
    import mnasnet_main
    from utils.config import loading, settings
    from utils.reading import dataset_info, examples, records
    from utils.showing import models, predictions, report_page


def main(argv: list[str]) -> None:
    """Writes the report of a model on a split."""
    arguments = _parser().parse_args(argv[1:])
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images={arguments.images} is invalid: it must be at least 1.")
    files.check_dir_name(arguments.data_dir, "data_dir")
    prefix = records.SPLIT_PREFIXES[arguments.split]
    data = {
        "data_dir": arguments.data_dir,
        **models.record_settings(arguments.model, vars(arguments)),
    }
    form = examples.record_format(data)
    paths = records.list_files(arguments.data_dir, prefix, data)
    info = dataset_info.of_run(data)
    model = models.load(
        arguments.model, arguments.data_dir, mnasnet_main.mnasnet_model_fn, arguments.labels, data
    )
    report_page.check_folder(arguments.output_dir, "output_dir")
    dataset_info.log_order(model.class_order, model.label_names, arguments.data_dir)
    source = predictions.Source(
        paths, model.num_classes, arguments.images, form=form, class_order=model.class_order
    )
    subject = report_page.Subject(model, arguments.data_dir, arguments.split)
    path = report_page.measure_and_write(
        subject, source, arguments.images or _total(info, prefix), arguments.output_dir
    )
    print(f"Wrote {path}: open it in a browser.")


def _parser() -> program.ArgumentParser:
    parser = program.ArgumentParser(
        prog="mnasnet-report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--model",
        required=True,
        help="a --model_dir, a checkpoint, a .tflite file, a SavedModel or an --export_dir",
    )
    parser.add_argument("--data_dir", required=True, help="folder of TFRecords")
    parser.add_argument("--output_dir", required=True, help="folder for the report")
    parser.add_argument(
        "--split",
        choices=list(records.SPLIT_PREFIXES),
        default="validation",
        help="pictures to show: validation (default), or train, to look for wrong labels there",
    )
    parser.add_argument("--images", type=int, help="number of images (default: all)")
    parser.add_argument("--labels", help="file of class names, one a line (default: the model's)")
    loading.add_arguments(parser, settings.RECORDS)
    return parser


def _total(info: dataset_info.DatasetInfo | None, prefix: str) -> int:
    """Returns the number of images in a split; 0 if unknown."""
    if info is None:
        return 0
    return info.num_eval_images if prefix == records.EVAL_PREFIX else info.num_train_images


def console() -> None:
    """Runs the console command `mnasnet-report`."""
    program.run(main)


if __name__ == "__main__":
    console()
