// Decodes JPEG as libjpeg does (accurate integer DCT, smooth chroma), to the bit and in every browser alike; with `n` of 2, 4 or 8
// at a half, a quarter or an eighth of the size, as Pillow's `draft` asks for. What it does not know (arithmetic coding, 12 bits) it throws.

const ZIGZAG = Uint8Array.from(
  [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57,
   50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63])

// The inverse DCT of 8 frequencies to 8, 4, 2 or 1 samples: the first half of the rows, in 13 to 16 binary places; in the second, odd
// frequencies change sign. Fewer samples are means of those of 8, but for rounding.
const DCT = {
  8: [[8192, 11363, 10703, 9633, 8192, 6437, 4433, 2260], [8192, 9633, 4433, -2259, -8192, -11362, -10704, -6436],
      [8192, 6437, -4433, -11362, -8192, 2261, 10704, 9633], [8192, 2260, -10703, -6436, 8192, 9633, -4433, -11363]],
  4: [[16384, 20995, 15137, 7373, 0, -4926, -6270, -4176], [16384, 8697, -15137, -17799, 0, 11893, 6270, -1730]],
  2: [[32768, 29692, 0, -10426, 0, 6967, 0, -5906]]}
for (const n of [8, 4, 2]) {
  const rows = [...DCT[n], ...DCT[n].toReversed().map(row => row.map((o, k) => k%2 ? -o : o))]
  DCT[n] = {matrix: Int32Array.from(rows.flat()), places: {8: 11, 4: 12, 2: 13}[n]}
}

class CutOff extends Error {}

function codeTable(counts, symbols) { // of a Huffman code: the next 16 bits -> length and symbol, as length*256 + symbol
  const table = new Uint16Array(1 << 16)
  for (let length = 1, at = 0, k = 0; length <= 16; length++) {
    for (let i = 0; i < counts[length - 1]; i++, k++) {
      const wide = 1 << (16 - length)
      table.fill(length*256 + symbols[k], at, at + wide)
      at += wide
    }
  }
  return table
}

class Bits { // of the entropy-coded part of a file
  constructor(bytes, at) { this.bytes = bytes; this.at = at; this.restart() }
  restart() { this.held = 0; this.count = 0; this.lacking = 0 }
  fill() { // to 17 bits or more, with zeros beyond the end
    while (this.count <= 16) {
      let byte = this.bytes[this.at]
      if (byte === undefined) { byte = 0; this.lacking += 8 }
      else if (byte != 0xFF) this.at++
      else if (this.bytes[this.at + 1] === 0) this.at += 2
      else byte = 0 // a marker: there it stops
      this.held = (this.held << 8 | byte) & 0xFFFFFF
      this.count += 8
    }
  }
  code(table) {
    if (this.count < 16) this.fill()
    const found = table[(this.held >> (this.count - 16)) & 0xFFFF]
    if (!found) throw new Error('no code of the table')
    this.count -= found >> 8
    if (this.count < this.lacking) throw new CutOff('it is cut off')
    return found & 255
  }
  take(n) {
    if (!n) return 0
    if (this.count < n) this.fill()
    this.count -= n
    if (this.count < this.lacking) throw new CutOff('it is cut off')
    return (this.held >> this.count) & ((1 << n) - 1)
  }
  number(n) { const o = this.take(n); return n && o < 1 << (n - 1) ? o - (1 << n) + 1 : o } // with its sign
}

// One block of a scan: `at` is where its 64 coefficients begin in `part.coefs`

function baseline(bits, part, at) {
  const {coefs} = part
  coefs[at] = part.last += bits.number(bits.code(part.dc))
  for (let k = 1; k < 64; k++) {
    const code = bits.code(part.ac), size = code & 15
    k += code >> 4
    if (size) coefs[at + ZIGZAG[k & 63]] = bits.number(size)
    else if (code != 0xF0) return
  }
}

function firstBits(bits, part, at, scan) { // progressive: so many of the highest
  const {coefs} = part
  if (!scan.from) { coefs[at] = (part.last += bits.number(bits.code(part.dc))) << scan.low; return }
  if (scan.run) { scan.run--; return }
  for (let k = scan.from; k <= scan.to; k++) {
    const code = bits.code(part.ac), zeros = code >> 4, size = code & 15
    if (!size && zeros < 15) { scan.run = (1 << zeros) + bits.take(zeros) - 1; return }
    k += zeros
    if (size) coefs[at + ZIGZAG[k & 63]] = bits.number(size)*(1 << scan.low)
  }
}

function nextBit(bits, part, at, scan) { // progressive: one more of each
  const {coefs} = part, one = 1 << scan.low
  if (!scan.from) { if (bits.take(1)) coefs[at] |= one; return }
  const refine = i => { if (bits.take(1) && !(Math.abs(coefs[i]) & one)) coefs[i] += coefs[i] < 0 ? -one : one }
  let k = scan.from
  for (; k <= scan.to && !scan.run; k++) {
    const code = bits.code(part.ac)
    let zeros = code >> 4, value = 0
    if (code & 15) value = bits.take(1) ? one : -one
    else if (zeros < 15) { scan.run = (1 << zeros) + bits.take(zeros); break }
    for (; k <= scan.to; k++) {
      const i = at + ZIGZAG[k]
      if (coefs[i]) refine(i)
      else if (!zeros--) { if (value) coefs[i] = value; break }
    }
  }
  if (!scan.run) return
  for (; k <= scan.to; k++) if (coefs[at + ZIGZAG[k]]) refine(at + ZIGZAG[k])
  scan.run--
}

function readScan(bytes, at, frame, tables) { // -> where it ends
  const parts = []
  for (let i = 0; i < bytes[at]; i++) {
    const part = frame.parts.find(o => o.id == bytes[at + 1 + 2*i]), which = bytes[at + 2 + 2*i]
    parts.push(Object.assign(part, {dc: tables.dc[which >> 4], ac: tables.ac[which & 15]}))
  }
  const rest = at + 1 + 2*parts.length, scan = {from: bytes[rest], to: bytes[rest + 1], low: bytes[rest + 2] & 15, run: 0}
  const block = !frame.progressive ? baseline : bytes[rest + 2] >> 4 ? nextBit : firstBits
  const bits = new Bits(bytes, rest + 3), alone = parts.length == 1
  const wide = alone ? parts[0].wide : frame.wide, n = wide*(alone ? parts[0].high : frame.high)
  for (let i = 0; i < n; i++) {
    if (i%(tables.interval || n) == 0) {
      if (i) {
        while (bytes[bits.at] !== undefined && !(bytes[bits.at] == 0xFF && (bytes[bits.at + 1] & 0xF8) == 0xD0)) bits.at++
        if (bytes[bits.at] === undefined) throw new CutOff('it is cut off')
        bits.at += 2; bits.restart()
      }
      scan.run = 0
      for (const o of parts) o.last = 0
    }
    const x = i%wide, y = (i/wide) | 0
    if (alone) { block(bits, parts[0], 64*(y*parts[0].stride + x), scan); continue }
    for (const o of parts) {
      for (let v = 0; v < o.v; v++) for (let h = 0; h < o.h; h++) block(bits, o, 64*((y*o.v + v)*o.stride + x*o.h + h), scan)
    }
  }
  return bits.at
}

function readFrame(bytes, at, marker) {
  const height = bytes[at + 1]*256 + bytes[at + 2], width = bytes[at + 3]*256 + bytes[at + 4], number = bytes[at + 5]
  if (bytes[at] != 8 || marker > 0xC2 || !height || !width || ![1, 3, 4].includes(number)) throw new Error('another kind of JPEG')
  const parts = Array.from({length: number}, (_, i) => at + 6 + 3*i).map(k => ({id: bytes[k], h: bytes[k + 1] >> 4, v: bytes[k + 1] & 15, q: bytes[k + 2]}))
  if (number == 1) parts[0].h = parts[0].v = 1
  const h = Math.max(...parts.map(o => o.h)), v = Math.max(...parts.map(o => o.v))
  const frame = {height, width, parts, h, v, progressive: marker == 0xC2, wide: Math.ceil(width/8/h), high: Math.ceil(height/8/v)}
  for (const o of parts) {
    o.wide = Math.ceil(Math.ceil(width*o.h/h)/8); o.high = Math.ceil(Math.ceil(height*o.v/v)/8)
    o.stride = frame.wide*o.h
    o.coefs = new Int16Array(64*o.stride*frame.high*o.v)
  }
  return frame
}

function readJpeg(bytes) {
  const tables = {dc: [], ac: [], quant: [], interval: 0}
  let frame, scans = 0
  for (let at = 2; at + 4 <= bytes.length;) {
    if (bytes[at] != 0xFF || bytes[at + 1] == 0 || bytes[at + 1] == 0xFF) { at++; continue }
    const marker = bytes[at + 1], end = at + 2 + bytes[at + 2]*256 + bytes[at + 3]
    if (marker == 0xD9) break
    if (marker >= 0xD0 && marker <= 0xD7) { at += 2; continue }
    if (marker == 0xDB) for (let k = at + 4; k < end;) {
      const wide = bytes[k] >> 4, table = tables.quant[bytes[k++] & 15] = new Int32Array(64)
      for (let i = 0; i < 64; i++, k += wide ? 2 : 1) table[ZIGZAG[i]] = wide ? bytes[k]*256 + bytes[k + 1] : bytes[k]
    }
    if (marker == 0xC4) for (let k = at + 4; k < end;) {
      const counts = bytes.subarray(k + 1, k + 17), n = counts.reduce((a, b) => a + b, 0)
      tables[bytes[k] >> 4 ? 'ac' : 'dc'][bytes[k] & 15] = codeTable(counts, bytes.subarray(k + 17, k + 17 + n))
      k += 17 + n
    }
    if (marker == 0xDD) tables.interval = bytes[at + 4]*256 + bytes[at + 5]
    if (marker == 0xE0 && bytes[at + 4] == 0x4A && bytes[at + 5] == 0x46) tables.jfif = true
    if (marker == 0xEE && bytes[at + 4] == 0x41 && bytes[at + 5] == 0x64 && end - at >= 16) tables.transform = bytes[at + 15]
    if (marker >= 0xC0 && marker <= 0xCF && ![0xC4, 0xC8, 0xCC].includes(marker)) frame = readFrame(bytes, at + 4, marker)
    if (marker == 0xDA) {
      for (const o of frame.parts) o.quant ??= tables.quant[o.q]
      at = readScan(bytes, at + 4, frame, tables)
      scans++
    }
    else at = end
  }
  if (!scans) throw new CutOff('it is cut off')
  return {frame, tables}
}

// From coefficients to samples

function transform(coefs, at, quant, n, out, to, stride, work) { // one block to n×n samples
  if (n == 1) { out[to] = Math.min(255, Math.max(0, ((coefs[at]*quant[0] + 4) >> 3) + 128)); return }
  const {matrix, places} = DCT[n], half = 1 << (places - 1), last = places + 7, round = (1 << (last - 1)) + 128*2**last
  for (let x = 0; x < 8; x++) {
    const c0 = coefs[at + x]*quant[x], c1 = coefs[at + 8 + x]*quant[8 + x], c2 = coefs[at + 16 + x]*quant[16 + x]
    const c3 = coefs[at + 24 + x]*quant[24 + x], c4 = coefs[at + 32 + x]*quant[32 + x], c5 = coefs[at + 40 + x]*quant[40 + x]
    const c6 = coefs[at + 48 + x]*quant[48 + x], c7 = coefs[at + 56 + x]*quant[56 + x]
    for (let y = 0; y < n; y++) {
      const m = 8*y
      work[m + x] = (matrix[m]*c0 + matrix[m + 1]*c1 + matrix[m + 2]*c2 + matrix[m + 3]*c3 + matrix[m + 4]*c4 + matrix[m + 5]*c5
                     + matrix[m + 6]*c6 + matrix[m + 7]*c7 + half) >> places
    }
  }
  for (let y = 0; y < n; y++) {
    const w = 8*y
    for (let x = 0; x < n; x++) {
      const m = 8*x
      const sum = matrix[m]*work[w] + matrix[m + 1]*work[w + 1] + matrix[m + 2]*work[w + 2] + matrix[m + 3]*work[w + 3]
        + matrix[m + 4]*work[w + 4] + matrix[m + 5]*work[w + 5] + matrix[m + 6]*work[w + 6] + matrix[m + 7]*work[w + 7] + round
      const o = Math.floor(sum/2**last)
      out[to + y*stride + x] = o < 0 ? 0 : o > 255 ? 255 : o
    }
  }
}

function samples(part, frame, least) { // the plane of one colour; chroma of half the size is transformed to twice the samples
  let n = least
  while (n < 8 && frame.h*least%(part.h*n*2) == 0 && frame.v*least%(part.v*n*2) == 0) n *= 2
  const stride = part.stride*n, data = new Uint8Array(stride*frame.high*part.v*n), work = new Int32Array(64)
  for (let y = 0; y < part.high; y++) {
    for (let x = 0; x < part.wide; x++) transform(part.coefs, 64*(y*part.stride + x), part.quant, n, data, y*n*stride + x*n, stride, work)
  }
  return {data, stride, width: Math.ceil(frame.width*part.h*n/frame.h/8), height: Math.ceil(frame.height*part.v*n/frame.v/8),
          across: frame.h*least/(part.h*n), down: frame.v*least/(part.v*n)}
}

// A plane at the size of the picture: smooth where it is half as wide or high, else each sample repeated

function enlarged(plane, width, height, smooth) {
  const {data, stride, across, down} = plane, res = new Uint8Array(width*height)
  const fancy = smooth && across <= 2 && down <= 2 && (across == 1 || plane.width > 2)
  if (across != Math.floor(across) || down != Math.floor(down)) throw new Error('another kind of JPEG')
  const sums = new Int32Array(plane.width)
  for (let y = 0; y < height; y++) {
    const row = Math.min(plane.height - 1, Math.floor(y/down)), near = row*stride, to = y*width
    if (!fancy || across*down == 1) { for (let x = 0; x < width; x++) res[to + x] = data[near + Math.floor(x/across)]; continue }
    const far = Math.min(plane.height - 1, Math.max(0, row + (y%2 ? 1 : -1)))*stride
    if (across == 1) { for (let x = 0; x < width; x++) res[to + x] = (3*data[near + x] + data[far + x] + (y%2 ? 2 : 1)) >> 2; continue }
    for (let i = 0; i < plane.width; i++) sums[i] = down == 2 ? 3*data[near + i] + data[far + i] : data[near + i]
    const places = down == 2 ? 4 : 2, [even, odd] = down == 2 ? [8, 7] : [1, 2]
    for (let x = 0; x < width; x++) {
      const i = x >> 1, other = x & 1 ? i + 1 : i - 1, edge = other < 0 || other >= plane.width
      res[to + x] = (3*sums[i] + sums[edge ? i : other] + (x & 1 ? odd : even)) >> places
    }
  }
  return res
}

const clamped = o => o < 0 ? 0 : o > 255 ? 255 : o

function inRgb(res, k, y, cb, cr) { // from luma and chroma
  res[k] = clamped(y + ((91881*(cr - 128) + 32768) >> 16))
  res[k + 1] = clamped(y + ((-22554*(cb - 128) - 46802*(cr - 128) + 32768) >> 16))
  res[k + 2] = clamped(y + ((116130*(cb - 128) + 32768) >> 16))
}

function inked(res, k, black) { // colours that were the rest of an ink, and the rest of black ink, as Pillow mixes them
  for (let c = k; c < k + 3; c++) {
    const product = (255 - res[c])*black + 128
    res[c] = clamped(black - ((product + (product >> 8)) >> 8))
  }
}

function decodeJpeg(bytes, n) { // a file, at 1/n of its size -> {data, width, height, channels}
  const {frame, tables} = readJpeg(bytes), least = 8/n, width = Math.ceil(frame.width/n), height = Math.ceil(frame.height/n)
  const planes = frame.parts.map(o => enlarged(samples(o, frame, least), width, height, least > 1))
  if (planes.length == 1) return {data: planes[0], width, height, channels: 1}
  const data = new Uint8Array(3*width*height), [first, second, third, black] = planes
  const named = String.fromCharCode(...frame.parts.map(o => o.id)) == 'RGB', {jfif, transform} = tables
  const mixed = black ? transform == 2 : jfif || (transform === undefined ? !named : transform)
  for (let i = 0, k = 0; i < first.length; i++, k += 3) {
    if (mixed) inRgb(data, k, first[i], second[i], third[i])
    else { data[k] = first[i]; data[k + 1] = second[i]; data[k + 2] = third[i] }
    if (black && mixed) for (let c = k; c < k + 3; c++) data[c] = 255 - data[c]
    if (black) inked(data, k, black[i])
  }
  return {data, width, height, channels: 3}
}
