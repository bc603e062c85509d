"""Reading data sets: TFRecord files and Bigtable rows, their order, checks and descriptions."""
