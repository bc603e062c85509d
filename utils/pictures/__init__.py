"""Picture files as cameras and phones store them: opening, turning upright, decoding."""
