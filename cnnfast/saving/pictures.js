// Opens pictures as cnnfast does in Python (cnnfast/data/pictures.py, by Pillow), so that the model sees the same numbers:
// a file becomes {data, width, height, channels}, 8 bits a sample, upright, of the size that the model takes.

// What a file says of itself, and its bytes without colour profiles and orientation, which the browser would apply in its own way

const latin = bytes => String.fromCharCode(...bytes.subarray(0, 4096))

function orientationIn(tiff) { // TIFF header and first directory of EXIF data -> 1 to 8
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength), little = view.getUint16(0) == 0x4949
  const start = view.getUint32(4, little)
  for (let i = 0; i < view.getUint16(start, little); i++) {
    const at = start + 2 + 12*i
    if (view.getUint16(at, little) == 0x112) return view.getUint16(at + 8, little)
  }
}
const orientation = tiff => { try { const o = orientationIn(tiff); return o >= 1 && o <= 8 ? o : undefined } catch { return undefined } }

function jpegFacts(bytes) {
  const facts = {kind: 'jpeg', kept: [bytes.subarray(0, 2)]}, view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 2, several = false, ultra = false
  while (at + 4 <= bytes.length && bytes[at] == 0xFF) {
    const marker = bytes[at + 1]
    if (marker == 0xFF) { at++; continue } // a fill byte
    const end = at + 2 + view.getUint16(at + 2), body = bytes.subarray(at + 4, end)
    const begins = text => latin(body.subarray(0, text.length)) == text
    if (marker >= 0xC0 && marker <= 0xCF && ![0xC4, 0xC8, 0xCC].includes(marker)) {
      facts.height = view.getUint16(at + 5); facts.width = view.getUint16(at + 7)
    }
    if (marker == 0xE1 && begins('Exif\0\0')) facts.orientation ??= orientation(body.subarray(6))
    if (marker == 0xE1 && latin(body).includes('hdrgm:Version="')) ultra = true
    if (marker == 0xE2 && begins('MPF\0')) several = true
    if (marker != 0xE1 && marker != 0xE2) facts.kept.push(bytes.subarray(at, Math.min(end, bytes.length)))
    at = end
    if (marker == 0xDA) break // what follows is the picture
  }
  facts.kept.push(bytes.subarray(at))
  facts.reducible = facts.width && (!several || ultra) // Pillow decodes no file of several pictures at a half
  return facts
}

function pngFacts(bytes) {
  const facts = {kind: 'png', kept: [bytes.subarray(0, 8)]}, view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 12 + view.getUint32(at), name = latin(bytes.subarray(at + 4, at + 8))
    if (name == 'eXIf') facts.orientation = orientation(bytes.subarray(at + 8, end - 4))
    if (['IHDR', 'PLTE', 'tRNS', 'IDAT', 'IEND'].includes(name)) facts.kept.push(bytes.subarray(at, end))
    at = end
  }
  return facts
}

function webpFacts(bytes) {
  const facts = {kind: 'webp', kept: [bytes = bytes.slice()]}, view = new DataView(bytes.buffer)
  for (let at = 12; at + 8 <= bytes.length;) {
    const name = latin(bytes.subarray(at, at + 4)), size = view.getUint32(at + 4, true)
    if (name == 'VP8X') bytes[at + 8] &= ~0x2C // no profile, no EXIF, no XMP
    if (name == 'EXIF') {
      const body = bytes.subarray(at + 8, at + 8 + size)
      facts.orientation = orientation(latin(body.subarray(0, 6)) == 'Exif\0\0' ? body.subarray(6) : body)
    }
    if (['ICCP', 'EXIF', 'XMP '].includes(name)) bytes.fill(0x78, at, at + 4) // chunks of unknown names are skipped
    at += 8 + size + size%2
  }
  return facts
}

function factsOf(bytes) {
  if (bytes[0] == 0xFF && bytes[1] == 0xD8) return jpegFacts(bytes)
  if (latin(bytes.subarray(1, 4)) == 'PNG') return pngFacts(bytes)
  if (latin(bytes.subarray(0, 4)) == 'RIFF' && latin(bytes.subarray(8, 12)) == 'WEBP') return webpFacts(bytes)
  return {kind: 'other', kept: [bytes]}
}

// Pixels

async function decoded(facts) { // -> {data (RGBA), width, height}, on white where it is transparent
  const bitmap = await createImageBitmap(new Blob(facts.kept), {colorSpaceConversion: 'none', premultiplyAlpha: 'none'})
  const canvas = Object.assign(document.createElement('canvas'), {width: bitmap.width, height: bitmap.height})
  const context = canvas.getContext('2d', {willReadFrequently: true})
  context.fillStyle = '#fff'; context.fillRect(0, 0, bitmap.width, bitmap.height)
  context.drawImage(bitmap, 0, 0)
  bitmap.close()
  return context.getImageData(0, 0, canvas.width, canvas.height)
}

function plain({data, width, height}, channels) { // grey, RGB or RGBA -> RGB, or grey as Pillow's 'L'
  const step = data.length/(width*height), res = new Uint8Array(width*height*channels)
  if (step == channels) return {data, width, height, channels}
  for (let i = 0, k = 0; i < data.length; i += step) {
    if (step == 1) { res[k++] = data[i]; res[k++] = data[i]; res[k++] = data[i] }
    else if (channels == 3) { res[k++] = data[i]; res[k++] = data[i + 1]; res[k++] = data[i + 2] }
    else res[k++] = (data[i]*19595 + data[i + 1]*38470 + data[i + 2]*7471 + 0x8000) >> 16
  }
  return {data: res, width, height, channels}
}

function upright(picture, orientation) { // as EXIF's 1 to 8 asks
  if (!orientation || orientation == 1) return picture
  const {data, width, height, channels} = picture, turned = orientation > 4
  const w = turned ? height : width, h = turned ? width : height, res = new Uint8Array(data.length)
  const right = [2, 3, 7, 8].includes(orientation), below = [3, 4, 6, 7].includes(orientation) // does the side begin at the other end?
  for (let y = 0, k = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const [a, b] = turned ? [y, x] : [x, y] // column, row
      const i = ((below ? height - 1 - b : b)*width + (right ? width - 1 - a : a))*channels
      for (let c = 0; c < channels; c++) res[k++] = data[i + c]
    }
  }
  return {data: res, width: w, height: h, channels}
}

// Pillow's resampling, bilinear with antialias, to the bit: whole numbers of 22 binary places, rounded to 8 bits after each of two passes

function weights(from, low, high, to) { // for each of `to` pixels: where its neighbours among `from` begin, and how much each counts
  const scale = Math.fround(Math.fround(high) - Math.fround(low))/to, support = Math.max(scale, 1)
  return Array.from({length: to}, (_, i) => {
    const centre = Math.fround(low) + (i + 0.5)*scale
    const first = Math.max(0, Math.trunc(centre - support + 0.5)), last = Math.min(from, Math.trunc(centre + support + 0.5))
    const near = Array.from({length: last - first}, (_, k) => Math.max(0, 1 - Math.abs((k + first - centre + 0.5)/support)))
    const all = near.reduce((a, b) => a + b, 0)
    return {first, near: Int32Array.from(near, o => Math.trunc(0.5 + (all ? o/all : o)*2**22))}
  })
}

function narrowed({data, width, height, channels}, columns) { // each row at another length
  const res = new Uint8Array(columns.length*height*channels)
  for (let y = 0, k = 0; y < height; y++) {
    for (const {first, near} of columns) {
      for (let c = 0; c < channels; c++) {
        let sum = 2**21
        for (let j = 0, i = (y*width + first)*channels + c; j < near.length; j++, i += channels) sum += data[i]*near[j]
        res[k++] = sum >> 22
      }
    }
  }
  return {data: res, width: columns.length, height, channels}
}

function lowered({data, width, height, channels}, rows) { // each column at another length
  const line = width*channels, res = new Uint8Array(line*rows.length)
  for (let y = 0, k = 0; y < rows.length; y++) {
    const {first, near} = rows[y]
    for (let x = 0; x < line; x++) {
      let sum = 2**21
      for (let j = 0, i = first*line + x; j < near.length; j++, i += line) sum += data[i]*near[j]
      res[k++] = sum >> 22
    }
  }
  return {data: res, width, height: rows.length, channels}
}

function resized(picture, [left, top, right, bottom], width, height) { // the box of it, at another size
  const columns = weights(picture.width, left, right, width), rows = weights(picture.height, top, bottom, height)
  const rowsFirst = picture.height - height > 2*Math.max(0, picture.width - width) // as Pillow 13 chooses; the order matters by 1 at most
  return rowsFirst ? narrowed(lowered(picture, rows), columns) : lowered(narrowed(picture, columns), rows)
}

const halfEven = o => { const r = Math.round(o); return r - o == 0.5 && r%2 ? r - 1 : r } // Python's `round`

function fitted(picture, size, how) { // to size×size, in one of the ways of `RESIZE`
  const {width, height, channels} = picture
  if (width == size && height == size) return picture
  if (how == 'squish') return resized(picture, [0, 0, width, height], size, size)
  if (how == 'crop') {
    const side = Math.min(width, height), left = (width - side)*0.5, top = (height - side)*0.5
    return resized(picture, [left, top, left + side, top + side], size, size)
  }
  const w = width < height ? Math.max(1, halfEven(width/height*size)) : size
  const h = width > height ? Math.max(1, halfEven(height/width*size)) : size
  const inner = resized(picture, [0, 0, width, height], w, h), res = new Uint8Array(size*size*channels)
  const x = halfEven((size - w)*0.5), y = halfEven((size - h)*0.5)
  for (let r = 0; r < h; r++) res.set(inner.data.subarray(r*w*channels, (r + 1)*w*channels), ((y + r)*size + x)*channels)
  return {data: res, width: size, height: size, channels}
}

async function pixelsOf(bytes, size) { // of a file, not upright yet; a JPEG at a half, quarter, … where both its sides keep `size` pixels
  const facts = factsOf(bytes)
  if (facts.kind == 'jpeg') {
    const times = facts.reducible ? Math.min(Math.floor(facts.width/size), Math.floor(facts.height/size)) : 1
    try { return [decodeJpeg(bytes, [8, 4, 2, 1].find(o => times >= o) ?? 1), facts] } catch (e) { if (e instanceof CutOff) throw e }
  }
  return [await decoded(facts), facts]
}

async function openPicture(bytes, {size, channels, resize}) { // of a file, as Python's `open_picture`
  const [pixels, facts] = await pixelsOf(bytes, size)
  return fitted(upright(plain(pixels, channels), facts.orientation), size, resize)
}

function openPixels(image, {size, channels, resize}) { return fitted(plain(image, channels), size, resize) } // of an `ImageData`, like a camera's

function asTensor({data, width, height, channels}) { // (channels, height, width), 0 to 255
  const res = new Float32Array(data.length), n = width*height
  for (let i = 0, k = 0; i < n; i++) for (let c = 0; c < channels; c++) res[c*n + i] = data[k++]
  return res
}
