// Says what to do where a page that was opened as a file loads no module. This script is none.
if (location.protocol === "file:") {
  document.getElementById("status").textContent =
    "This page was opened as a file, and browsers load a model only from a web server: run " +
    "python -m http.server in the folder of the page, and open http://127.0.0.1:8000/ instead.";
}
