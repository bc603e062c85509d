"""Runs exported .tflite files in the runtimes of today's apps: LiteRT and MediaPipe."""
