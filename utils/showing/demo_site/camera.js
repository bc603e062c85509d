// Classifies what the camera sees until it is stopped.

import {showClasses, showSquare, showTimes} from "./cards.js";

const REASONS = {
  NotAllowedError: "The browser may not use the camera: allow it in the settings of this page, " +
    "and try again.",
  NotFoundError: "No camera was found: connect one and try again, or choose a picture.",
  NotReadableError: "The camera cannot be used, perhaps because another program does: close " +
    "that program, and try again.",
};

/** Returns the camera's stream; throws an Error whose message is a sentence. */
async function openStream() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give the camera to secure pages alone: open this one over https " +
      "or at http://127.0.0.1.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The camera does not start (${error.message}).`);
  }
}

const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

export class Camera {
  constructor(section) {
    this.section = section;
    this.video = section.querySelector("video");
    this.stream = null;
  }

  /** Shows and classifies frames until `stop`; throws an Error whose message is a sentence. */
  async run(classifier) {
    if (this.stream) return;
    this.stream = await openStream();
    const {section, video, stream} = this;
    try {
      video.srcObject = stream;
      section.hidden = false;
      await video.play();
      while (this.stream === stream) {
        const {videoWidth: width, videoHeight: height} = video;
        const result = await classifier.classify(video, width, height);
        showSquare(section.querySelector(".frame"), result.square, width, height);
        showClasses(section.querySelector(".classes"), result.classes);
        showTimes(section.querySelector(".times"), result);
        await nextFrame();
      }
    } finally {
      this.stop();
    }
  }

  /** Returns the frame that is shown as a JPEG file. */
  async picture() {
    const canvas = new OffscreenCanvas(this.video.videoWidth, this.video.videoHeight);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await canvas.convertToBlob({type: "image/jpeg", quality: 0.95});
    return new File([blob], "camera.jpg", {type: blob.type});
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
    this.section.hidden = true;
  }
}
