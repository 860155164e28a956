// Records a reading in the browser. Without it, the page's form takes a file.
"use strict";

const box = document.getElementById("recorder");
const form = document.getElementById("upload");
const lines = Array.from(document.querySelectorAll("#lines > li"));
const nextLine = document.getElementById("next-line");
// Safari records audio/mp4 alone; whoever can do both is asked for what plays everywhere.
const TYPES = ["audio/mp4", "audio/webm;codecs=opus", "audio/webm", "audio/ogg;codecs=opus"];
const LIMIT = Number(box.dataset.seconds);

let line = 0;
let recorder = null;
let stream = null;
let parts = [];
let recording = null;
let began = 0;
let clock = 0;
let seconds = 0;

function say(state) {
  document.getElementById("status").textContent = box.dataset[state] || box.dataset.failed;
}

function show(...names) {
  for (const button of box.querySelectorAll("button")) button.hidden = !names.includes(button.id);
}

function highlight() {
  lines.forEach((item, number) => {
    if (number === line) item.setAttribute("aria-current", "true");
    else item.removeAttribute("aria-current");
  });
  nextLine.disabled = line >= lines.length - 1;
  lines[line].scrollIntoView({ block: "nearest" });
}

function release() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  clearInterval(clock);
}

async function record() {
  say("asking");
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false },
    });
  } catch (error) {
    const reasons = { NotAllowedError: "denied", SecurityError: "denied", NotFoundError: "no_microphone",
      OverconstrainedError: "no_microphone", NotReadableError: "busy", AbortError: "busy" };
    say(reasons[error.name] || "unsupported");
    return;
  }
  const type = TYPES.find((name) => MediaRecorder.isTypeSupported(name));
  recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
  parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("stop", stopped);
  recorder.start();
  began = performance.now();
  line = 0;
  highlight();
  clock = setInterval(tick, 500);
  say("recording");
  show("stop");
  document.getElementById("stop").focus();
}

function tick() {
  seconds = (performance.now() - began) / 1000;
  const whole = Math.floor(seconds);
  document.getElementById("time").textContent =
    `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  if (seconds >= LIMIT) recorder.stop();
}

function stopped() {
  seconds = (performance.now() - began) / 1000;
  release();
  recording = new Blob(parts, { type: recorder.mimeType });
  const player = document.getElementById("player");
  player.src = URL.createObjectURL(recording);
  player.hidden = false;
  say("listen");
  show("redo", "send");
  document.getElementById("send").focus();
}

async function send() {
  say("sending");
  show();
  const body = new FormData();
  body.append("csrf", form.elements.csrf.value);
  body.append("seconds", seconds.toFixed(1));
  body.append("audio", recording, "recording");
  try {
    const answer = await fetch(form.action, { method: "POST", body });
    if (answer.ok) {
      location.reload();
      return;
    }
    say({ 413: "too_large", 415: "not_audio", 422: "too_long" }[answer.status] || "failed");
  } catch {
    say("failed");
  }
  show("redo", "send");
}

function again() {
  document.getElementById("player").hidden = true;
  document.getElementById("time").textContent = "";
  record();
}

box.hidden = false;
nextLine.hidden = false;
highlight();
nextLine.addEventListener("click", () => {
  line = Math.min(line + 1, lines.length - 1);
  highlight();
});
if (window.isSecureContext && navigator.mediaDevices && window.MediaRecorder) {
  show("record");
  say("idle");
  document.getElementById("record").addEventListener("click", record);
  document.getElementById("stop").addEventListener("click", () => recorder.stop());
  document.getElementById("redo").addEventListener("click", again);
  document.getElementById("send").addEventListener("click", send);
  window.addEventListener("pagehide", release);
} else {
  show();
  say("unsupported");
}
