"""What every part of the package stands on: errors, files, signals, progress."""
