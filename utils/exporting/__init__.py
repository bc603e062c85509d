"""What an export is made of: SavedModel and .tflite files, measured and put in place."""
