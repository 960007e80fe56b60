// Files that people hand in.
import { Refusal } from "./api.js";

const SOUND = /\.(wav|flac|ogg|oga|opus|mp3|m4a|aac)$/i;
const PICTURE = /\.(jpe?g|png|gif|webp|bmp|tiff?|avif|heic)$/i;

// "image", "audio", or null for what is neither.
export function kindOf(file) {
  if (file.type.startsWith("audio/") || SOUND.test(file.name)) return "audio";
  if (file.type.startsWith("image/") || PICTURE.test(file.name)) return "image";
  return null;
}

// Why files were refused; the service does not know them by name.
export function reason(error, names) {
  if (!error.message.startsWith("cannot read") || !names.length) return error.message;
  return `${names.join(" or ")} cannot be read: it is damaged, or of an unknown format.`;
}

export function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Refusal(400, `${file.name} cannot be opened.`));
    reader.readAsDataURL(file);
  });
}
