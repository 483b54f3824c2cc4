// The page: takes pictures, asks the model, shows what it says

const $ = id => document.getElementById(id)
const facts = JSON.parse($('facts').textContent), {classes, size, channels, unsure} = facts
const percent = p => `${(100*p).toFixed(p >= 0.9995 || p < 0.0005 ? 0 : 1)}%`
const results = [], say = text => { $('status').textContent = text }
function complain(text) { $('problem').textContent = text; $('problem').hidden = !text }
if (parent != window) document.documentElement.classList.add('inside')

// The model: its parts are in the page, packed, or are fetched where the page was written so

const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11)

function bytesOf(text) { // from base64
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text)
  const found = atob(text), res = new Uint8Array(found.length)
  for (let i = 0; i < found.length; i++) res[i] = found.charCodeAt(i)
  return res
}

async function unpacked(id) {
  const packed = new Blob([bytesOf($(id).textContent)]).stream().pipeThrough(new DecompressionStream('gzip'))
  $(id).remove()
  return new Uint8Array(await new Response(packed).arrayBuffer())
}

async function fetched({url, integrity}) {
  try { return new Uint8Array(await (await fetch(url, {integrity})).arrayBuffer()) }
  catch { throw new Error(`This page needs the network once, and ${new URL(url).host} cannot be reached: ask for the page with everything inside.`) }
}

async function load() {
  if (typeof WebAssembly == 'undefined' || !WebAssembly.validate(SIMD) || typeof DecompressionStream == 'undefined') {
    throw new Error('This browser is too old to run the model (it lacks WebAssembly SIMD): use Chrome 91, Firefox 113, Safari 16.4 or newer.')
  }
  const part = name => facts.fetched ? fetched(facts.fetched[name]) : unpacked(name)
  const runtime = await part('runtime'), url = URL.createObjectURL(new Blob([runtime], {type: 'text/javascript'}))
  const ort = await import(url)
  URL.revokeObjectURL(url)
  ort.env.wasm.numThreads = 1 // more would need headers that a file has not
  ort.env.wasm.wasmBinary = await part('wasm')
  ort.env.logLevel = 'error'
  const session = await ort.InferenceSession.create(await unpacked('model'), {executionProviders: ['wasm']})
  return async tensors => { // pictures -> the probabilities of each
    const all = new Float32Array(tensors.length*tensors[0].length)
    tensors.forEach((o, i) => all.set(o, i*o.length))
    const pictures = new ort.Tensor('float32', all, [tensors.length, channels, size, size])
    const {data} = (await session.run({pictures})).probabilities
    return tensors.map((_, i) => data.slice(i*classes.length, (i + 1)*classes.length))
  }
}

const resting = () => new Promise(done => setTimeout(done)) // lets the browser draw
const model = new Promise(done => requestAnimationFrame(() => setTimeout(() => done(load())))) // the page is drawn first
model.then(() => { say('Ready.'); document.documentElement.dataset.ready = 'yes' }, e => { say(''); complain(e.message) })

// One picture and what the model says of it

const best = probabilities => probabilities.indexOf(Math.max(...probabilities))
const ranked = probabilities => [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a])
const knows = probabilities => probabilities[best(probabilities)] >= unsure

function draw({data, width, height}, shade) { // `shade`: the colour of pixel i -> its part of the result
  const canvas = Object.assign($('seen'), {width, height}), context = canvas.getContext('2d'), image = context.createImageData(width, height)
  for (let i = 0; i < width*height; i++) {
    const rgb = [0, 1, 2].map(c => data[i*channels + (channels == 3 ? c : 0)])
    image.data.set([...(shade ? shade(i, rgb) : rgb), 255], 4*i)
  }
  context.putImageData(image, 0, 0)
  canvas.classList.toggle('coarse', width < 100)
}

let shown // {name, picture, probabilities}

function show(o) {
  shown = o
  const {name, picture, probabilities} = o, top = best(probabilities)
  draw(picture)
  $('seen').setAttribute('aria-label', `${name}, as the model sees it`)
  $('caption').textContent = `${name}, as the model sees it: ${size}×${size} pixels`
  $('answer').textContent = knows(probabilities) ? classes[top] : 'I don’t know'
  $('doubt').textContent = `Most likely ${classes[top]}. But where it is less than ${percent(unsure)} sure, it was wrong at least as often as right.`
  $('doubt').hidden = knows(probabilities)
  $('tops').replaceChildren(...ranked(probabilities).slice(0, 5).map(i => {
    const li = document.createElement('li'), [a, b] = [classes[i], percent(probabilities[i])].map(t => Object.assign(document.createElement('span'), {textContent: t}))
    li.style.setProperty('--share', percent(probabilities[i])); li.append(a, b)
    return li
  }))
  $('where').textContent = `What speaks for ${classes[top]}?`
  $('where').disabled = false
  $('where').setAttribute('aria-pressed', 'false')
  $('result').hidden = false
}

const sentence = (name, p) => knows(p) ? `${name}: ${classes[best(p)]}, ${percent(p[best(p)])}` : `${name}: I don’t know; most likely ${classes[best(p)]}, ${percent(p[best(p)])}`

async function opened(file) {
  try { return await openPicture(new Uint8Array(await file.arrayBuffer()), facts) }
  catch { throw new Error(`${file.name} cannot be read as a picture.`) }
}

// Many of them, one after the other

function addRow(o) {
  const row = $('list').tBodies[0].insertRow(), button = Object.assign(document.createElement('button'), {type: 'button', textContent: o.name})
  row.insertCell().append(o.probabilities ? button : o.name)
  const p = o.probabilities
  row.insertCell().textContent = !p ? 'cannot be read' : knows(p) ? classes[best(p)] : `I don’t know (${classes[best(p)]}?)`
  row.insertCell().textContent = p ? percent(p[best(p)]) : ''
  button.onclick = async () => { mark(row); show({...o, picture: await opened(o.file)}) }
  $('all').hidden = false
  return row
}

function mark(row) {
  for (const o of $('list').tBodies[0].rows) o.removeAttribute('aria-current')
  row.setAttribute('aria-current', 'true')
}

async function classify(files) { // -> so many could be read
  const predict = await model, bad = []
  let done = 0
  for (const file of files) {
    const name = file.name || 'pasted picture'
    try {
      const picture = await opened(file), [probabilities] = await predict([asTensor(picture)])
      const o = {name, file, probabilities}, row = addRow(o)
      results.push(o)
      if (!done++) { show({...o, picture}); mark(row) }
    }
    catch (e) { bad.push(e.message); results.push({name, file}); addRow({name, file}) }
    if (files.length > 1) say(`${done + bad.length} of ${files.length} pictures`)
    await resting()
  }
  if (bad.length) complain(bad.length < 3 ? bad.join(' ') : `${bad.length} of ${files.length} files cannot be read as pictures: they have no class in the table.`)
  say(files.length == 1 && done ? sentence(results.at(-1).name, results.at(-1).probabilities) : `${done} picture${done == 1 ? '' : 's'} classified.`)
}

let queue = Promise.resolve()
function take(files) { // one drop after the other
  if (!files.length) return complain('There is no picture in what was dropped or pasted.')
  complain('')
  return queue = queue.then(() => classify([...files])).catch(() => {}) // why there is no model has been said
}

// Ways to give it pictures

const drop = $('drop')
addEventListener('dragover', e => { e.preventDefault(); drop.classList.add('over') })
addEventListener('dragleave', e => { if (!e.relatedTarget) drop.classList.remove('over') })
addEventListener('drop', async e => {
  e.preventDefault()
  drop.classList.remove('over')
  const {files} = e.dataTransfer, entries = [...e.dataTransfer.items].map(o => o.webkitGetAsEntry?.())
  take(entries.some(o => o?.isDirectory) ? (await Promise.all(entries.map(filesIn))).flat() : files)
})

async function filesIn(entry) { // of a file or folder that was dropped
  if (!entry) return []
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))]
  const reader = entry.createReader(), found = []
  for (let some = [0]; some.length; found.push(...some)) some = await new Promise((done, fail) => reader.readEntries(done, fail))
  return (await Promise.all(found.map(filesIn))).flat()
}

addEventListener('paste', e => { if (e.clipboardData.files.length || !e.clipboardData.types.includes('text/plain')) take(e.clipboardData.files) })
for (const [button, input] of [['choose', 'files'], ['photo', 'shot']]) {
  $(button).onclick = () => $(input).click()
  $(input).onchange = () => { take([...$(input).files]); $(input).value = '' }
}
$('photo').hidden = !matchMedia('(pointer: coarse)').matches
document.querySelectorAll('.examples button').forEach((button, i) => {
  button.onclick = () => take([new File([bytesOf(button.firstChild.src.split(',')[1])], facts.examples[i])])
})

let stream
function closeCamera() {
  stream?.getTracks().forEach(o => o.stop())
  stream = undefined
  $('live').hidden = true
}

function frame() { // what the camera sees
  const video = $('video'), canvas = Object.assign(document.createElement('canvas'), {width: video.videoWidth, height: video.videoHeight})
  const context = canvas.getContext('2d', {willReadFrequently: true})
  context.drawImage(video, 0, 0)
  return {canvas, pixels: context.getImageData(0, 0, canvas.width, canvas.height)}
}

async function watch() { // as many pictures a second as the model can
  const predict = await model, own = stream
  while (stream && stream == own) {
    if ($('video').videoWidth) {
      const picture = openPixels(frame().pixels, facts), [probabilities] = await predict([asTensor(picture)])
      if (stream == own) show({name: 'camera', picture, probabilities})
    }
    await new Promise(done => setTimeout(done, 50))
  }
}

$('camera').onclick = async () => {
  complain('')
  try { stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}}) }
  catch (e) {
    const refused = e.name == 'NotAllowedError'
    return complain(refused ? 'The camera was not allowed: allow it in the browser, or choose a picture.' : 'There is no camera that this page can use: choose a picture instead.')
  }
  $('video').srcObject = stream
  $('live').hidden = false
  await $('video').play()
  watch().catch(() => {})
}
$('take').onclick = () => frame().canvas.toBlob(blob => {
  closeCamera()
  take([new File([blob], `camera ${results.filter(o => o.name.startsWith('camera')).length + 1}`)])
})
$('close').onclick = closeCamera

// What speaks for a class: by how much its probability falls where a grey square hides a part (as Python's `occlusion_maps`)

function places() { // where squares begin, along one side
  const patch = Math.max(1, Math.floor(size/4)), stride = Math.max(1, Math.floor(patch/2)), starts = []
  for (let o = 0; o < Math.max(1, size - patch + 1); o += stride) starts.push(o)
  return [patch, [...new Set([...starts, Math.max(0, size - patch)])].sort((a, b) => a - b)]
}

async function occlusion(picture, probabilities, progress) { // -> for each pixel, -1 to 1
  const predict = await model, [patch, starts] = places(), x = asTensor(picture), n = size*size, target = best(probabilities)
  const grey = Array.from({length: channels}, (_, c) => x.subarray(c*n, (c + 1)*n).reduce((a, b) => a + b, 0)/n)
  const falls = new Float32Array(n), times = new Float32Array(n)
  for (const [k, top] of starts.entries()) {
    const hidden = starts.map(left => {
      const o = x.slice()
      for (let c = 0; c < channels; c++) for (let r = top; r < top + patch; r++) o.fill(grey[c], c*n + r*size + left, c*n + r*size + left + patch)
      return o
    })
    const answers = await predict(hidden)
    answers.forEach((p, j) => {
      for (let r = top; r < top + patch; r++) for (let i = r*size + starts[j]; i < r*size + starts[j] + patch; i++) { falls[i] += probabilities[target] - p[target]; times[i]++ }
    })
    progress((k + 1)/starts.length)
    await resting()
  }
  return falls.map((o, i) => o/times[i])
}

const INFERNO = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]]
function inferno(v) { // 0 to 1 -> RGB
  const at = Math.min(1, Math.max(0, v))*(INFERNO.length - 1), i = Math.min(INFERNO.length - 2, Math.floor(at))
  return INFERNO[i].map((a, c) => a + (INFERNO[i + 1][c] - a)*(at - i))
}

$('where').onclick = async () => {
  const of = shown, button = $('where'), name = classes[best(of.probabilities)]
  closeCamera()
  if (button.getAttribute('aria-pressed') == 'true') return show(of)
  button.disabled = true
  const map = of.map ??= await occlusion(of.picture, of.probabilities, share => { button.textContent = `Hiding parts of it: ${Math.round(100*share)}%` })
  if (shown != of) return
  const most = Math.max(...map)
  draw(of.picture, (i, rgb) => { const grey = 0.4*(rgb[0] + rgb[1] + rgb[2])/3, c = inferno(most > 0 ? map[i]/most : 0); return c.map(o => grey + 0.6*o) })
  button.textContent = 'Show the picture again'
  button.setAttribute('aria-pressed', 'true')
  button.disabled = false
  $('caption').textContent = most > 0 ? `The brighter, the more the probability of ${name} falls (by up to ${Math.round(100*most)} points) when that part is hidden.`
    : `No part of it speaks for ${name}: hiding any of them makes it no less probable.`
  say($('caption').textContent)
  $('seen').setAttribute('aria-label', $('caption').textContent)
}

// The table as a file, with the columns of `cnnfast predict`

const quoted = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
function asCsv() {
  const rows = results.map(({name, probabilities: p}) => p ? [quoted(name), quoted(classes[best(p)]), p[best(p)].toFixed(4)] : [quoted(name), '', ''])
  return [['file', 'label', 'probability'], ...rows].map(o => o.join(',')).join('\n') + '\n'
}
$('csv').onclick = () => {
  const a = Object.assign(document.createElement('a'), {href: URL.createObjectURL(new Blob([asCsv()], {type: 'text/csv'})), download: 'predictions.csv'})
  a.click()
  setTimeout(() => URL.revokeObjectURL(a.href), 1000)
}
$('clear').onclick = () => {
  results.length = 0
  $('list').tBodies[0].replaceChildren()
  $('all').hidden = $('result').hidden = true
  say('Ready.')
}

globalThis.cnnfast = {results, take, occlusion, get shown() { return shown }, get done() { return queue }} // for programs
