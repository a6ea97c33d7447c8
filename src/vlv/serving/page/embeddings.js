// Caption embeddings as a file that `vlv reconstruct` reads (safetensors, tensor z (1,Q,d)).

/**
 * @param {{z: string, shape: number[]}} encoded the server's response: base64 of float32, (Q,d)
 * @param {string} name of the image file
 * @param {string} model name
 * @returns {Uint8Array} the file
 */
export function safetensors(encoded, name, model) {
  const data = Uint8Array.from(atob(encoded.z), (letter) => letter.charCodeAt(0));
  const header = JSON.stringify({
    __metadata__: { format: "pt", file_names: JSON.stringify([name]), model },
    z: { dtype: "F32", shape: [1, ...encoded.shape], data_offsets: [0, data.length] },
  });
  const text = new TextEncoder().encode(header);
  // The data start at a multiple of eight bytes.
  const length = Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(8 + length + data.length).fill(0x20, 8, 8 + length);
  new DataView(file.buffer).setBigUint64(0, BigInt(length), true);
  file.set(text, 8);
  file.set(data, 8 + length);
  return file;
}
