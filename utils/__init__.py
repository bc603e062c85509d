"""What the modules of the package share."""

# This file belongs to mnasnet-tpu. (`mnasnet_start` looks for these words.)
