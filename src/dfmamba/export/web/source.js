// Pictures from files and from the camera.

const MOST_PIXELS = 100e6;

/**
 * A photo, upright, over white where it is transparent.
 *
 * @returns an OffscreenCanvas.
 */
export async function readPhoto(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: 'from-image', colorSpaceConversion: 'none' });
  } catch {
    throw new Error(`${file.name || 'This'} is not a picture that the browser can read.`);
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    bitmap.close();
    throw new Error(`${file.name} has ${width} x ${height} pixels; the limit is 100 megapixels.`);
  }
  const canvas = blank(width, height);
  const context = canvas.getContext('2d');
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

function blank(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext('2d', { willReadFrequently: true });
  return canvas;
}

/** {data, width, height} of a canvas, four bytes a pixel. */
export function pixelsOf(canvas) {
  const { data, width, height } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return { data, width, height };
}

/** The camera, or a film from a file, in a video element. */
export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
  }

  get running() {
    return this.stream !== null;
  }

  /**
   * Starts it, or a film; returns whether it looks at the user, so that a mirrored preview is what they expect.
   *
   * @param file a film, which is shown again and again.
   */
  async start(file) {
    if (file) return this.#play(file);
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error('No camera here: browsers offer it to pages from https and from localhost only.');
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: 'user' },
      });
    } catch (error) {
      const reasons = {
        NotAllowedError: 'The browser was not allowed to use the camera.',
        NotFoundError: 'There is no camera.',
        NotReadableError: 'The camera is used by another program.',
      };
      throw new Error(reasons[error.name] ?? `The camera does not start: ${error.message}`);
    }
    this.video.srcObject = this.stream;
    await this.video.play();
    return this.stream.getVideoTracks()[0].getSettings().facingMode !== 'environment';
  }

  async #play(file) {
    this.stream = { getTracks: () => [], getVideoTracks: () => [] };
    Object.assign(this.video, { src: URL.createObjectURL(file), loop: true });
    try {
      await this.video.play();
    } catch {
      this.stop();
      throw new Error(`${file.name} is not a film that the browser can play.`);
    }
    return false;
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
    if (this.video.src) {
      URL.revokeObjectURL(this.video.src);
      this.video.removeAttribute('src');
    }
    this.wake?.();
  }

  /** Calls for each frame that the camera shows, until it stops; resolves then. */
  async frames(call) {
    const { video, stream } = this;
    stream.getVideoTracks()[0]?.addEventListener('ended', () => this.stream === stream && this.stop());
    while (this.stream === stream) {
      await new Promise((resolve) => {
        this.wake = resolve;
        if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
        else requestAnimationFrame(resolve);
      });
      if (this.stream === stream && video.videoWidth) call(video);
    }
  }
}
