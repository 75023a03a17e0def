import assert from 'node:assert/strict'
import { type Failed, helpPage, NEEDED_GLIBC } from '../../lib/native/help.js'

const absent = (name: string) => ({ name, absent: true, reason: 'not there' })
const refused = (name: string, reason: string) => ({ name, absent: false, reason })
const X64 = ['prebuilds/linux-x64/vfio.glibc.node', 'prebuilds/linux-x64/vfio.musl.node'] as const

const page = (about: Partial<Failed>) =>
  helpPage({
    arch: 'x64',
    libc: 'glibc 2.36',
    runtime: 'Node v22.1.0',
    shipped: ['glibc', 'musl'],
    overridden: false,
    bundled: false,
    tried: [absent('build/Release/vfio.node'), ...X64.map(absent)],
    ...about,
  })

const adviceOn = (text: string) => text.slice(text.indexOf('What to do:'))

describe('the page about an addon that could not be loaded', () => {
  it('says what this is, what is needed, and all that was tried', () => {
    const text = page({ tried: [absent(X64[0]), refused(X64[1], 'libc.so: cannot open')] })
    assert.match(text, /This is: {2}linux-x64, glibc 2\.36, Node v22\.1\.0\n/)
    assert.match(text, /It needs: glibc 2\.28 or newer, or musl\n/)
    assert.match(
      text,
      /vfio\.glibc\.node: not there\n {4}prebuilds\/linux-x64\/vfio\.musl\.node: libc\.so: cannot open\n/,
    )
  })

  it('names both versions where glibc is too old', () => {
    const tried = [refused(X64[0], "version `GLIBC_2.28' not found")]
    for (const libc of ['glibc 2.17', 'glibc 2.27', 'glibc 1.99']) {
      const advice = adviceOn(page({ libc, tried }))
      assert(advice.includes(`${libc} is too old`), advice)
      assert(advice.includes(NEEDED_GLIBC))
      assert.match(advice, /build:addon/)
    }
    for (const libc of ['glibc 2.28', 'glibc 2.100', 'glibc 3.0', 'musl'])
      assert.doesNotMatch(page({ libc, tried }), /too old/)
  })

  it('tells a bundle to leave the package outside, and nothing about installing', () => {
    const advice = adviceOn(page({ bundled: true }))
    assert.match(advice, /mark `vfio` external/)
    assert.doesNotMatch(advice, /npm install|build:addon/)
    assert.doesNotMatch(page({}), /external/)
  })

  it('tells an incomplete package from one that is refused', () => {
    assert.match(adviceOn(page({})), /binaries of the package are not there: install it anew/)
    const broken = page({
      tried: [refused(X64[0], 'invalid ELF header'), refused(X64[1], 'libc.so: not found')],
    })
    assert.match(adviceOn(broken), /refused for the reason above/)
    assert.doesNotMatch(adviceOn(broken), /not there/)
  })

  it('sends processors without a binary to the build, and musl on s390x too', () => {
    const riscv = page({ arch: 'riscv64', shipped: [], tried: [absent('build/Release/vfio.node')] })
    assert.match(adviceOn(riscv), /no binary for linux-riscv64\. Build it here, .*: npm explore vfio/)
    const s390x = page({
      arch: 's390x',
      libc: 'musl',
      shipped: ['glibc'],
      tried: [refused('prebuilds/x', 'no')],
    })
    assert.match(adviceOn(s390x), /no binary for linux-s390x with musl/)
    assert.match(s390x, /It needs: glibc 2\.28 or newer\n/)
  })

  it('is about VFIO_ADDON alone where that is set', () => {
    const text = page({ overridden: true, tried: [absent('VFIO_ADDON=/nowhere/vfio.node')] })
    assert.match(adviceOn(text), /VFIO_ADDON has to be the absolute path/)
    assert.doesNotMatch(adviceOn(text), /npm/)
  })

  it('fits a terminal', () => {
    for (const about of [{}, { bundled: true }, { overridden: true }, { shipped: [] }, { libc: 'glibc 2.1' }])
      for (const line of page(about).split('\n')) assert(line.length <= 160, line)
  })
})
