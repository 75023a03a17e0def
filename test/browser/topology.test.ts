import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { exportTopology, Host } from 'vfio'
import { exampleHost } from '../../scripts/docs/host.js'
import { Browser, type BrowserPage, findBrowser, type View } from '../fixtures/browser.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { skip } from '../fixtures/skip.js'

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

const WIDE: View = { width: 1280, height: 900 }
const NARROW: View = { width: 320, height: 640, touch: true }
const item = (address: string) => `[data-id="${address}"]`
const row = (address: string) => `${item(address)} > .row`
const HOSTILE = `<img src=x onerror="document.title='hit'"></script><script>document.title='hit'</script>`

/** What was found in the page that somebody could not read or reach. */
interface Violation {
  readonly id: string
  readonly impact: string
  readonly nodes: readonly { readonly html: string; readonly failureSummary: string }[]
}

describe('the page of a host, in a browser', function () {
  this.timeout(120_000)
  let browser: Browser
  const files = new Map<string, string>()
  const pages: BrowserPage[] = []

  before(function () {
    const program = findBrowser() ?? skip(this, 'there is no Chromium on this machine')
    const example = exampleHost()
    const directory = temporaryDirectory()
    const write = (name: string, seen: ReturnType<Host['snapshot']>) => {
      const file = join(directory, `${name}.html`)
      writeFileSync(file, exportTopology(seen, { format: 'html' }).text)
      files.set(name, pathToFileURL(file).href)
    }
    write('desktop', new Host(example.trees).snapshot())
    example.remove()
    write('large', new Host(makeHost({ devices: describeLargeHost(500) })).snapshot())
    const pciIds = `1234  ${HOSTILE}\n\t5678  ${HOSTILE}\n`
    const devices = [
      {
        address: '0000:00:03.0',
        vendor: 0x1234,
        device: 0x5678,
        group: 1,
        driver: HOSTILE.replaceAll('/', '_'),
      },
    ]
    write('hostile', new Host(makeHost({ devices, pciIds })).snapshot())
    browser = Browser.start(program)
  })
  after(async () => {
    await browser?.end()
    removeDirectories()
  })
  // Whatever else a test is about: nothing was asked for, and nothing went wrong.
  afterEach(async () => {
    for (const page of pages.splice(0)) {
      assert.deepEqual(page.complaints, [])
      assert.deepEqual(page.requests, [])
      await page.close()
    }
  })

  async function open(name: string, view: View = WIDE): Promise<BrowserPage> {
    const page = await browser.open(files.get(name) ?? '', view)
    pages.push(page)
    return page
  }
  const textOf = (page: BrowserPage, selector: string) =>
    page.evaluate<string>(`document.querySelector(${JSON.stringify(selector)}).innerText`)
  const focused = (page: BrowserPage) =>
    page.evaluate<string | null>(
      `document.activeElement.closest('li')?.dataset.id ?? document.activeElement.id`,
    )
  /** Addresses of what can be seen of the tree. */
  const shown = (page: BrowserPage) =>
    page.evaluate<string[]>(
      `[...document.querySelectorAll('[data-id]')].filter((one) => one.checkVisibility()).map((one) => one.dataset.id)`,
    )
  const marked = (page: BrowserPage, name: string) =>
    page.evaluate<string[]>(`[...document.querySelectorAll('.${name}')].map((one) => one.dataset.id)`)

  async function press(page: BrowserPage, ...keys: string[]): Promise<string | null> {
    for (const key of keys) await page.press(key)
    return focused(page)
  }

  it('tells of what is clicked, with the cure, and marks its group and what resets with it', async () => {
    const page = await open('desktop')
    await page.click(row('0000:01:00.0'))
    const details = await textOf(page, '#details')
    assert.match(details, /^01:00\.0\s+bindable/)
    assert.match(details, /vfio bind 01:00\.0 01:00\.1/)
    assert.match(details, /bind it to vfio-pci, or unbind it/)
    assert.deepEqual(await marked(page, 'in-group'), ['0000:00:01.0', '0000:01:00.0', '0000:01:00.1'])
    assert.deepEqual(await marked(page, 'in-reset'), ['0000:01:00.0', '0000:01:00.1'])
    assert.match(await textOf(page, '#said'), /^01:00\.0, bindable\. 01:00\.0 can be given away/)
    // The disk that the host runs on is offered to nobody.
    await page.click(row('0000:02:00.0'))
    const disk = await textOf(page, '#details')
    assert.match(disk, /would not survive/)
    assert.doesNotMatch(disk, /vfio bind/)
  })

  it('shows what the pointer is over, and says nothing of it', async () => {
    const page = await open('desktop')
    await page.click(row('0000:03:00.0'))
    const said = await textOf(page, '#said')
    await page.hover(row('0000:04:00.0'))
    assert.match(await textOf(page, '#details'), /^04:00\.0\s+blocked/)
    assert.equal(await textOf(page, '#said'), said)
    await page.hover('h1')
    assert.match(await textOf(page, '#details'), /^03:00\.0/)
  })

  it('is walked by the keys of a tree', async () => {
    const page = await open('desktop')
    await page.evaluate(`document.querySelector('#collapse').focus()`)
    assert.equal(await press(page, 'Tab'), '')
    assert.equal(await page.evaluate('document.activeElement.getAttribute("role")'), 'treeitem')
    assert.equal(await press(page, 'ArrowDown'), '0000:00:01.0')
    assert.equal(await press(page, 'ArrowRight'), '0000:01:00.0')
    assert.equal(await press(page, 'ArrowDown'), '0000:01:00.1')
    assert.equal(await press(page, 'ArrowLeft'), '0000:00:01.0')
    assert.equal(await press(page, 'ArrowLeft', 'ArrowDown'), '0000:00:02.0')
    assert.equal(await press(page, 'ArrowUp', 'ArrowRight', 'ArrowRight'), '0000:01:00.0')
    assert.equal(await press(page, 'End'), '0000:00:1f.6')
    await press(page, 'Enter')
    assert.match(await textOf(page, '#details'), /^00:1f\.6\s+in use/)
    assert.equal(await press(page, 'Home', 'ArrowLeft'), '')
    assert.deepEqual(await shown(page), [])
    assert.equal(await press(page, 'ArrowRight', '0', '2', ':'), '0000:02:00.0')
    const outline = await page.evaluate<string>('getComputedStyle(document.activeElement).outlineStyle')
    assert.equal(outline, 'solid')
    // One stop for the whole tree.
    assert.equal(await page.evaluate(`document.querySelectorAll('#tree [tabindex="0"]').length`), 1)
  })

  it('is searched by words, groups and what can go, and is as before when the search is over', async () => {
    const page = await open('large')
    const before = await shown(page)
    const search = async (text: string) => {
      await page.evaluate(
        `document.querySelector('#search').focus(); document.querySelector('#search').select()`,
      )
      await page.type(text)
      return shown(page)
    }
    assert.deepEqual(await search('nvme 0d:00'), ['0000:00:07.0', '0000:0d:00.0'])
    assert.equal(await textOf(page, '#count'), '1 of 500 found')
    assert.deepEqual(await search('group 7'), ['0000:00:03.0', '0000:03:00.0'])
    assert.deepEqual(await search('no such thing'), [])
    assert.equal(await textOf(page, '#count'), '0 of 500 found')
    await press(page, 'Escape')
    assert.deepEqual(await shown(page), before)
    await page.evaluate(`(() => {
      const only = document.querySelector('#only')
      only.value = 'blocked'
      only.dispatchEvent(new Event('change'))
    })()`)
    assert.equal(await textOf(page, '#count'), '3 of 500 found')
    // What is chosen from elsewhere is shown whatever was searched for.
    await page.evaluate(`document.querySelector('.glance .free').open = true`)
    await page.click(`.free ${'[data-go="0000:03:00.5"]'}`)
    assert.equal(await focused(page), '0000:03:00.5')
    assert((await shown(page)).includes('0000:03:00.5'))
  })

  it('has 500 functions folded to what fits on a few screens, and unfolds them', async () => {
    const page = await open('large')
    assert((await shown(page)).length < 100)
    await page.click('#expand')
    assert.equal((await shown(page)).length, 500)
    await page.click('#collapse')
    assert.equal((await shown(page)).length, 0)
  })

  it('fits a telephone: nothing is wider than the screen, and a tap opens a sheet that closes', async () => {
    for (const name of ['desktop', 'large']) {
      const page = await open(name, NARROW)
      const width = await page.evaluate<number>('document.documentElement.scrollWidth')
      assert(width <= 320, `${name}: ${width}`)
    }
    const page = await open('desktop', NARROW)
    assert.equal(await page.evaluate(`document.querySelector('#details').checkVisibility()`), false)
    await page.tap(row('0000:04:00.0'))
    assert.match(await textOf(page, '#details'), /^04:00\.0\s+blocked/)
    await page.tap('#close')
    assert.equal(await page.evaluate(`document.querySelector('#details').checkVisibility()`), false)
    // A telephone that is turned, and a window that is made wide.
    await page.resize({ ...WIDE })
    assert.equal(await page.evaluate(`document.querySelector('#details').checkVisibility()`), true)
  })

  it('is printed', async () => {
    const page = await open('desktop')
    await page.click(row('0000:01:00.0'))
    const pdf = await page.print()
    assert.equal(pdf.subarray(0, 5).toString(), '%PDF-')
    // As wide as paper, where lines break.
    await page.resize({ width: 760, height: 1000 })
    await page.send('Emulation.setEmulatedMedia', { media: 'print' })
    const height = await page.evaluate<number>(
      `document.querySelector('${row('0000:02:00.0')}').offsetHeight`,
    )
    assert(height < 80, `a line is ${height} pixels high`)
    assert.equal(await page.evaluate(`document.querySelector('#tools').checkVisibility()`), false)
    assert.equal(
      await page.evaluate(`document.querySelector('${item('0000:01:00.0')}').checkVisibility()`),
      true,
    )
  })

  it('can be read and reached by everybody, as far as axe can tell', async () => {
    const views: readonly (readonly [string, View])[] = [
      ['desktop', WIDE],
      ['desktop', { ...WIDE, scheme: 'dark' }],
      ['desktop', { ...NARROW, scheme: 'dark' }],
    ]
    for (const [name, view] of views) {
      const page = await open(name, view)
      const [first = ''] = await shown(page)
      await (view.touch ? page.tap(row(first)) : page.click(row(first)))
      await page.evaluate(AXE)
      const found = await page.evaluate<Violation[]>('axe.run(document).then(({ violations }) => violations)')
      assert.deepEqual(
        found.map(
          ({ id, impact, nodes }) => `${impact} ${id}: ${nodes[0]?.html} ${nodes[0]?.failureSummary}`,
        ),
        [],
        `${name} ${JSON.stringify(view)}`,
      )
    }
  })

  it('takes names of devices and drivers as text, and its policy lets nothing else run', async () => {
    const page = await open('hostile')
    await page.click(row('0000:00:03.0'))
    assert.match(await page.evaluate('document.title'), /^PCI topology/)
    assert.match(await textOf(page, '#details'), /<img src=x onerror=/)
    assert.equal(await page.evaluate('document.images.length + document.scripts.length'), 2)
    const ran = await page.evaluate(`new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', () => resolve('refused'))
      const script = document.createElement('script')
      try { script.textContent = 'window.ran = true' } catch { resolve('refused') }
      document.body.append(script)
      if (window.ran) resolve('ran')
    })`)
    assert.equal(ran, 'refused')
    // It complains of what this test tried.
    page.complaints.length = 0
  })
})
