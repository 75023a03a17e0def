import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { allPages, Page } from '../../scripts/docs/pages.js'
import { ROOT } from '../../scripts/docs/root.js'

/** Why a link of a page leads nowhere; `null` where it leads somewhere. */
function whyDead(from: Page, target: string, pages: ReadonlyMap<string, Page>): string | null {
  const [path = '', anchor] = target.split('#')
  const file = path === '' ? from.path : normalize(join(dirname(from.path), path))
  if (path.startsWith('/')) return 'it is not relative'
  if (path !== '') {
    if (file.startsWith('..') || !existsSync(join(ROOT, file))) return 'there is no such file'
    if (statSync(join(ROOT, file)).isDirectory())
      return 'a directory is no page of the site: name its README.md'
  }
  if (anchor === undefined) return null
  const page = pages.get(file)
  if (!page) return 'only pages have anchors'
  return page.anchors.has(anchor) ? null : 'there is no such heading'
}

const isElsewhere = (target: string) => /^(https?|mailto):/.test(target)

describe('links', function () {
  this.timeout(60_000)
  const pages = new Map(allPages().map((page) => [page.path, page]))

  it('lead to files and headings that there are', () => {
    const dead: string[] = []
    let followed = 0
    for (const page of pages.values()) {
      for (const { line, target } of page.links) {
        if (isElsewhere(target)) continue
        followed++
        const why = whyDead(page, target, pages)
        if (why !== null) dead.push(`${page.path}:${line}: ${target}: ${why}`)
      }
    }
    assert.deepEqual(dead, [])
    assert(followed > 500, `only ${followed} links were found`)
  })

  it('are found dead where they are', () => {
    const page = new Page(
      'docs/how/made-up.md',
      '# One\n\n## Two words, and `code`\n\n[a](b.md) <img src="c.svg">\n',
    )
    assert.deepEqual(
      page.links.map(({ line, target }) => [line, target]),
      [
        [5, 'b.md'],
        [5, 'c.svg'],
      ],
    )
    const known = new Map([...pages, [page.path, page]])
    assert.equal(whyDead(page, '#two-words-and-code', known), null)
    assert.equal(whyDead(page, 'resets.md#a-hot-reset', known), null)
    assert.equal(whyDead(page, '#three', known), 'there is no such heading')
    assert.equal(whyDead(page, 'nowhere.md', known), 'there is no such file')
    assert.equal(whyDead(page, '../guides', known), 'a directory is no page of the site: name its README.md')
  })

  it('lead to every page from the first one', () => {
    const reached = new Set<string>()
    const follow = (path: string) => {
      const page = pages.get(path)
      if (!page || reached.has(path)) return
      reached.add(path)
      for (const { target } of page.links) {
        const [file = ''] = target.split('#')
        if (file !== '' && !isElsewhere(target)) follow(normalize(join(dirname(path), file)))
      }
    }
    follow('README.md')
    assert.deepEqual(
      [...pages.keys()].filter((path) => !reached.has(path)),
      [],
    )
  })

  it('show every picture by day and by night, with a text for who does not see it', () => {
    const pictures = readdirSync(join(ROOT, 'docs/pictures'))
    const shown = new Set<string>()
    for (const { path, text } of pages.values()) {
      for (const [picture] of text.matchAll(/<picture>.*?<\/picture>/gs)) {
        const [, dark = ''] = /srcset="[^"]*\/([\w-]+\.svg)"/.exec(picture) ?? []
        const [, light = '', alt = ''] = /src="[^"]*\/([\w-]+\.svg)" alt="([^"]+)"/.exec(picture) ?? []
        assert.equal(dark, light.replace('.svg', '-dark.svg'), path)
        assert(alt.length > 20, path)
        shown.add(light).add(dark)
      }
    }
    assert.deepEqual([...shown].sort(), pictures.sort())
    // Of one drawing: only the colours differ.
    const shapes = (name: string) =>
      readFileSync(join(ROOT, 'docs/pictures', name), 'utf8').replaceAll(/#[0-9a-f]{6}/g, '#')
    for (const name of pictures.filter((each) => !each.endsWith('-dark.svg')))
      assert.equal(shapes(name.replace('.svg', '-dark.svg')), shapes(name))
  })
})
