import { defineConfig, type MarkdownRenderer } from 'vitepress'
import { slugify } from './slug.mjs'

/** Where the files of the repository are shown, like `https://example.org/vfio/blob/main`; without it they are named, and not linked. */
const repository = process.env.DOCS_REPOSITORY

type Token = Parameters<Parameters<MarkdownRenderer['core']['ruler']['push']>[1]>[0]['tokens'][number]

/** Links to what is in the repository, and not of the site. */
function leadOutside(tokens: readonly Token[]): void {
  for (const token of tokens.filter(({ type }) => type === 'inline')) {
    let isOutside = false
    token.children = (token.children ?? []).filter((child) => {
      const target = /^(?:\.\.\/){2}(.*)$/.exec(child.attrGet('href') ?? '')?.[1]
      if (child.type === 'link_open' && target !== undefined) {
        isOutside = repository === undefined
        child.attrSet('href', `${repository}/${target}`)
        return !isOutside
      }
      const isEnd = child.type === 'link_close' && isOutside
      if (isEnd) isOutside = false
      return !isEnd
    })
  }
}

const page = (text: string, link: string) => ({ text, link: `/${link}` })

export default defineConfig({
  title: 'vfio',
  description: 'PCI device assignment on Linux, as a typed library and a command line',
  // Served below any path: the host of the site decides.
  base: process.env.DOCS_BASE ?? '/',
  cleanUrls: true,
  lastUpdated: false,
  // A page that is named README.md is what a directory shows, here as in a clone.
  rewrites: { 'README.md': 'index.md', ':room/README.md': ':room/index.md' },
  markdown: {
    anchor: { slugify },
    config: (md) => md.core.ruler.push('outside', ({ tokens }) => leadOutside(tokens)),
  },
  themeConfig: {
    outline: { level: [2, 3] },
    search: { provider: 'local' },
    nav: [
      page('Guides', 'guides/gpu'),
      page('It does not work', 'trouble/'),
      page('How it works', 'how/viability'),
      page('Reference', 'reference/commands'),
      page('Library', 'api/'),
    ],
    sidebar: [
      {
        text: 'Do it',
        items: [
          page('A graphics card', 'guides/gpu'),
          page('An NVMe disk', 'guides/nvme'),
          page('Virtual functions', 'guides/virtual-functions'),
          page('A command that has devices', 'guides/run'),
          page('Containers', 'guides/containers'),
          page('Mediated devices', 'guides/mediated'),
          page('A picture of a host', 'guides/topology'),
          page('In a cluster', 'guides/kubernetes'),
          page('Bound at every boot', 'guides/boot'),
          page('Without root', 'guides/users'),
          page('From what you do by hand', 'guides/by-hand'),
        ],
      },
      {
        text: 'Build on it',
        items: [
          page('The library', 'guides/library'),
          page('Drivers in user space', 'guides/drivers'),
          page('In a VMM in Node', 'guides/vmm'),
        ],
      },
      {
        text: 'It does not work',
        items: [
          page('Where to begin', 'trouble/'),
          page('Errors', 'trouble/errors'),
          page('Refusals of the kernel', 'trouble/kernel'),
          page('Verdicts', 'trouble/verdicts'),
          page('The host', 'trouble/doctor'),
          page('Plans, journals and boot', 'trouble/changes'),
          page('Programs', 'trouble/program'),
        ],
      },
      {
        text: 'How it works',
        items: [
          page('Groups and viability', 'how/viability'),
          page('Resets', 'how/resets'),
          page('Containers and iommufd', 'how/iommufd'),
          page('Nothing is lost', 'how/nothing-lost'),
          page('How it is known', 'how/known'),
        ],
      },
      {
        text: 'Look it up',
        items: [
          page('Commands', 'reference/commands'),
          page('JSON', 'reference/json'),
          page('Platforms', 'reference/platforms'),
        ],
      },
      {
        text: 'The library, name by name',
        collapsed: true,
        items: [
          page('All names', 'api/'),
          page('Look', 'api/look'),
          page('Judge', 'api/judge'),
          page('Change', 'api/change'),
          page('Open', 'api/open'),
          page('Hand on', 'api/hand-on'),
          page('Errors', 'api/errors'),
        ],
      },
    ],
  },
})
