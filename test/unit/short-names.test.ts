import assert from 'node:assert/strict'
import { shortName } from '../../lib/sysfs/short-names.js'

const listed = (vendor: string, device = 'Card') =>
  shortName({ names: { vendor, device, subsystem: null, class: null }, ids: '1234:5678' })

describe('the name of a device in a list', () => {
  const VENDORS = {
    'Intel Corporation': 'Intel',
    'Advanced Micro Devices, Inc. [AMD/ATI]': 'Advanced Micro Devices',
    'Realtek Semiconductor Co., Ltd.': 'Realtek Semiconductor',
    'Yangtze Memory Technologies Co.,Ltd': 'Yangtze Memory Technologies',
    'Huaqin Technology Co.Ltd': 'Huaqin Technology',
    'Hefei DATANG Storage Technology Co.,LTD.': 'Hefei DATANG Storage Technology',
    'Aquantia L.L.C. (now Marvell)': 'Aquantia',
    'Some Thing S.A.': 'Some Thing',
    'Bayer Corporation, Agfa Division': 'Bayer, Agfa Division',
    'Bug, Inc. Sapporo Japan': 'Bug Sapporo Japan',
    'Hoontech Corporation/Samho Multi Tech Ltd.': 'Hoontech/Samho Multi Tech',
    'Holco Enterprise Co, Ltd/Shuttle Computer': 'Holco Enterprise/Shuttle Computer',
    'Some Thing A/S': 'Some Thing',
    'Foo A.B. Bar': 'Foo A.B. Bar',
    'Co-Conv Corp.': 'Co-Conv',
    'Holco Co-op': 'Holco Co-op',
    'AG Communications': 'AG Communications',
    'Collion UG & Co.KG': 'Collion UG & Co.KG',
  }
  for (const [vendor, short] of Object.entries(VENDORS)) {
    it(`has of ${vendor} what people say`, () => {
      assert.equal(listed(vendor), `Card, ${short}`)
    })
  }

  it('is that of the card where the chip has another, and says no vendor twice', () => {
    assert.equal(listed('NVIDIA Corporation', 'AD102 [GeForce RTX 4090]'), 'GeForce RTX 4090, NVIDIA')
    assert.equal(listed('Samsung Electronics Co Ltd', 'Samsung Electronics NVMe'), 'Samsung Electronics NVMe')
  })
})
