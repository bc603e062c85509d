"""What `mnasnet-data inspect` is made of: it looks into data sets and changes none."""
