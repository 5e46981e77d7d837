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

export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
  }

  get running() {
    return this.stream !== null;
  }

  /** Starts it; returns whether it looks at the user, so that a mirrored preview is what they expect. */
  async start() {
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

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
    this.wake?.();
  }

  /** The newest picture, again and again until the camera stops: {picture, time in seconds}. */
  async *pictures() {
    const { video, stream } = this;
    stream.getVideoTracks()[0].addEventListener('ended', () => this.stream === stream && this.stop());
    for (;;) {
      await new Promise((resolve) => {
        this.wake = resolve;
        if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
        else requestAnimationFrame(resolve);
      });
      if (this.stream !== stream) return;
      const canvas = blank(video.videoWidth, video.videoHeight);
      canvas.getContext('2d').drawImage(video, 0, 0);
      yield { picture: canvas, time: performance.now() / 1000 };
    }
  }
}
