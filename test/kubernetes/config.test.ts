import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { VfioError } from 'vfio'
import { parseConfig } from '../../kubernetes/src/config.js'
import { ROOT } from '../unit/support.js'

function mistakesIn(text: string): string[] {
  try {
    parseConfig(text, 'plugin.yaml')
  } catch (error) {
    assert.ok(error instanceof VfioError, String(error))
    assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT')
    return error.message.split('\n')
  }
  return []
}

const one = (resource: string) => `resources:\n  - ${resource.replaceAll('\n', '\n    ')}\n`
const named = (name: string, consumer = 'kubevirt') =>
  one(`name: ${name}\nconsumer: ${consumer}\nselect: [{ class: vga }]`)

/** What is wrong, and what is said: the place, and what to know. */
const MISTAKES: Readonly<Record<string, readonly [text: string, place: string, what: RegExp]>> = {
  'no mapping': ['- a\n', '1:1', /the configuration is a list, and has to be a mapping/],
  empty: ['', '1:1', /the configuration is empty/],
  'bad YAML': ['resources: [\n', '2:1', /./],
  'a key twice': ['resources: []\nresources: []\n', '2:1', /unique/],
  'no resource': ['resources: []\n', '1:1', /resources is empty/],
  'nothing selected': [
    one('name: a.b/c\nconsumer: plain\nselect: []'),
    '4:5',
    /resources\[0\]\.select is empty/,
  ],
  'an empty selector': [one('name: a.b/c\nconsumer: plain\nselect: [{}]'), '4:14', /select\[0\] is empty/],
  'no consumer': [one('name: a.b/c\nselect: [{ class: vga }]'), '2:5', /has no "consumer"/],
  'another consumer': [
    one('name: a.b/c\nconsumer: docker\nselect: [{ class: vga }]'),
    '3:5',
    /one of kubevirt, kata, plain/,
  ],
  'another key': [
    one('name: a.b/c\nconsumer: plain\nselect: [{ klass: vga }]'),
    '4:16',
    /no klass here.*address, ids, class, driver, numa/,
  ],
  'a number for a text': [
    one('name: a.b/c\nconsumer: plain\nselect: [{ class: 0300 }]'),
    '4:16',
    /is 300, and has to be text: put it in quotes/,
  ],
  'a bad address': [
    one('name: a.b/c\nconsumer: plain\nselect: [{ address: [0000:01:00.8] }]'),
    '4:26',
    /the address of a PCI function/,
  ],
  'bad ids': [
    one('name: a.b/c\nconsumer: plain\nselect: [{ ids: "10de" }]'),
    '4:16',
    /four hexadecimal digits each/,
  ],
  'a negative node': [
    one('name: a.b/c\nconsumer: plain\nselect: [{ numa: -1 }]'),
    '4:16',
    /the number of a NUMA node/,
  ],
  'a name without domain': [named('gpu'), '2:5', /a domain, a slash and a name/],
  'a name of Kubernetes': [named('kubernetes.io/gpu'), '2:5', /for itself/],
  'a name below it': [named('x.kubernetes.io/gpu'), '2:5', /for itself/],
  'a name of quotas': [named('requests.example.com/gpu'), '2:5', /quotas/],
  'a capital domain': [named('Example.com/gpu'), '2:5', /is no domain/],
  'a name with a space': [named('"example.com/g u"'), '2:5', /other characters/],
  'a name that is too long': [named(`example.com/${'a'.repeat(64)}`), '2:5', /more than 63/],
  'a domain that is too long': [named(`${'a.'.repeat(122)}com/gpu`), '2:5', /more than 244/],
  'a name that only ends with it': [named('mykubernetes.io/gpu'), '2:5', /for itself/],
  'a kind that CDI refuses': [named('example.com/1gpu', 'kata'), '2:5', /kind of CDI too.*a letter first/],
  'a kind with a dot': [named('example.com/a.b', 'kata'), '2:5', /a dot in its class/],
  'a vendor that CDI refuses': [named('3d.example/gpu', 'kata'), '2:5', /vendor has to begin with a letter/],
  'a class of one letter': [named('example.com/g', 'kata'), '2:5', /class of one letter/],
  'a vendor of one letter': [named('e/gpu', 'kata'), '2:5', /vendor of one letter/],
  'a part of a vendor that is too long': [
    named(`${'a'.repeat(64)}.com/gpu`, 'kata'),
    '2:5',
    /63 between dots/,
  ],
  'a kind that makes no file': [
    named(`${'a.'.repeat(90)}com/${'b'.repeat(60)}`, 'kata'),
    '2:5',
    /the name of a file/,
  ],
  'digits that are no class': [
    one('name: a.b/c\nconsumer: plain\nselect: [{ class: "030" }]'),
    '4:16',
    /"030" names no class.*"nvme".*two, four or six digits/,
  ],
  'a word that is no class, of a list': [
    one('name: a.b/c\nconsumer: plain\nselect: [{ class: vga }]\nprimary: { class: [vga, grafics] }'),
    '5:29',
    /"grafics" names no class/,
  ],
}

describe('the configuration of the device plugin', () => {
  for (const [name, [text, place, what]] of Object.entries(MISTAKES)) {
    it(`says where and what is wrong: ${name}`, () => {
      const [first = ''] = mistakesIn(text)
      assert.match(first, what)
      assert.equal(/^plugin\.yaml:(\d+:\d+): /.exec(first)?.[1], place, first)
    })
  }

  it('names all mistakes at once, in their order', () => {
    const text = 'resources:\n  - name: x\n    consumer: y\n    select: []\n    more: 1\n'
    const places = mistakesIn(text).map((line) => line.split(': ')[0])
    assert.deepEqual(places, ['plugin.yaml:2:5', 'plugin.yaml:3:5', 'plugin.yaml:4:5', 'plugin.yaml:5:5'])
  })

  it('refuses one name twice, and two with one environment variable', () => {
    const two = (one: string, other: string) =>
      `resources:\n${[one, other].map((name, at) => `  - { name: ${name}, consumer: plain, select: [{ numa: ${at} }] }\n`).join('')}`
    assert.match(mistakesIn(two('a.b/c', 'a.b/c'))[0] ?? '', /^plugin\.yaml:3:7: a\.b\/c is there twice/)
    assert.match(mistakesIn(two('a.b/c', 'a.b/C'))[0] ?? '', /one environment variable, PCI_RESOURCE_A_B_C/)
    // A hyphen stays one.
    assert.deepEqual(mistakesIn(two('a.b/c-d', 'a.b/c.d')), [])
  })

  it('refuses what two resources select in one and the same way, before any host is looked at', () => {
    const two = (one: string, other: string) =>
      `resources:\n${[one, other].map((select, at) => `  - { name: a.b/${at}, consumer: plain, select: [${select}] }\n`).join('')}`
    assert.match(
      mistakesIn(two('{ ids: 10de:2204 }', '{ ids: [8086:10d3, 10DE:2204] }'))[0] ?? '',
      /^plugin\.yaml:3:.*a\.b\/1 selects what a\.b\/0 selects already/,
    )
    assert.match(
      mistakesIn(two('{ address: "01:00.0" }', '{ address: 0000:01:00.0 }'))[0] ?? '',
      /selects already/,
    )
    assert.deepEqual(mistakesIn(two('{ ids: 10de:2204, numa: 0 }', '{ ids: 10de:2204, numa: 1 }')), [])
  })

  it('takes YAML and JSON, one or a list, and addresses in short', () => {
    const expected = {
      resources: [
        {
          name: 'example.com/gpu',
          consumer: 'kubevirt',
          select: [
            { address: ['0000:01:00.0'] },
            { ids: ['10de:2204'], class: ['vga'], driver: ['vfio-pci'], numa: [0, 1] },
          ],
          primary: { class: ['0300'] },
        },
      ],
    }
    const yaml = one(
      'name: example.com/gpu\nconsumer: kubevirt\nselect:\n  - address: "01:00.0"\n  - { ids: 10DE:2204, class: VGA, driver: vfio-pci, numa: [0, 1] }\nprimary: { class: "0300" }',
    )
    assert.deepEqual(parseConfig(yaml, 'plugin.yaml'), expected)
    const json = JSON.stringify(
      {
        resources: [
          {
            name: 'example.com/gpu',
            consumer: 'kubevirt',
            select: [
              { address: '01:00.0' },
              { ids: '10DE:2204', class: 'VGA', driver: 'vfio-pci', numa: [0, 1] },
            ],
            primary: { class: '0300' },
          },
        ],
      },
      null,
      '\t',
    )
    assert.deepEqual(parseConfig(json, 'plugin.json'), expected)
  })

  it('has a published schema whose every mistake is told in a sentence', () => {
    const schema = JSON.parse(readFileSync(join(ROOT, 'kubernetes/schemas/config.json'), 'utf8'))
    const patterns = Object.values(
      schema.definitions as Record<string, { pattern?: string; description?: string }>,
    )
    for (const { pattern, description } of patterns) {
      // What has to be so is said by the description.
      if (pattern !== undefined) assert.match(description ?? '', /such as "|the name|a word/)
    }
  })
})
