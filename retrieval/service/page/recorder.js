// A recording as a WAV file: what browsers record by themselves (WebM) is no format of sound files.
const LONGEST = 60; // seconds

class Recorder {
  async start() {
    if (!navigator.mediaDevices) throw new Error("browsers record on localhost and over https only.");
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("/assets/recorder-worklet.js");
    this.parts = [];
    const node = new AudioWorkletNode(this.context, "recorder");
    node.port.onmessage = (event) => this.parts.push(event.data);
    // Some browsers run only what leads to the loudspeakers; the recorder itself is silent.
    this.context.createMediaStreamSource(this.stream).connect(node).connect(this.context.destination);
  }

  async stop() {
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    return new File([wav(this.parts, rate)], "recording.wav", { type: "audio/wav" });
  }
}

// A button that starts and ends a recording; `take` gets the file, `fail` why there is none.
export function recordBy(button, take, fail) {
  let recorder = null;
  let ticking = 0;
  const end = () => {
    clearInterval(ticking);
    button.classList.remove("recording");
    button.textContent = "Record";
  };
  const finish = async () => {
    const file = await recorder.stop();
    recorder = null;
    end();
    take(file);
  };
  button.onclick = async () => {
    button.disabled = true; // until the microphone is there, or gone
    try {
      if (recorder) await finish();
      else {
        const fresh = new Recorder();
        await fresh.start();
        recorder = fresh;
        let seconds = 0;
        button.classList.add("recording");
        button.textContent = "Stop (0 s)";
        ticking = setInterval(() => {
          button.textContent = `Stop (${++seconds} s)`;
          if (seconds === LONGEST) button.click();
        }, 1000);
      }
    } catch (error) {
      recorder = null;
      end();
      fail(error.name === "NotAllowedError" ? "The microphone may not be used." : `No recording: ${error.message}`);
    }
    button.disabled = false;
    button.focus();
  };
}

function wav(parts, rate) {
  const count = parts.reduce((sum, part) => sum + part.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const letters = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true); // bits
  letters(36, "data");
  view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const part of parts)
    for (const sample of part) {
      view.setInt16(at, 32767 * Math.max(-1, Math.min(1, sample)), true);
      at += 2;
    }
  return view.buffer;
}
