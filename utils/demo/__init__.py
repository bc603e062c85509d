"""Makes the parts of a web page that classifies pictures with an exported file."""
