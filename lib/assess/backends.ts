import type { HostFacts, VfioModule } from '../sysfs/facts.js'

/** What VFIO maps memory for devices through: a container with one of two IOMMU drivers, or iommufd alone. */
export type Backend = 'type1' | 'spapr' | 'iommufd'

const isThere = ({ modules }: HostFacts, module: VfioModule) =>
  modules[module] !== 'missing' && modules[module] !== 'unknown'

/**
 * The backend that a kernel offers (`drivers/vfio/Kconfig`: type1 for x86, s390 and ARM, spapr for POWER; with
 * CONFIG_VFIO_CONTAINER off there is neither, and /dev/iommu is all).
 */
export function backendOf(host: HostFacts): Backend {
  if (host.platform.architecture === 'power') return 'spapr'
  if (isThere(host, 'vfio_iommu_type1')) return 'type1'
  if (isThere(host, 'vfio_iommu_spapr_tce')) return 'spapr'
  const isWithoutContainer = host.modules.vfio_iommu_type1 === 'missing' || host.nodes.container === null
  return isWithoutContainer && isThere(host, 'iommufd') ? 'iommufd' : 'type1'
}

/** Can devices be opened by `/dev/iommu` only, and not by a container? */
export const opensByIommufd = (host: HostFacts) => backendOf(host) === 'iommufd'

/** Does iommufd map for all that is opened: because there is nothing else, or because it stands in for the container? */
export const mapsByIommufd = (host: HostFacts): boolean =>
  backendOf(host) === 'iommufd' || host.nodes.iommufdAsContainer === true

/** The module of a backend. */
export const BACKEND_MODULES: Readonly<Record<Backend, VfioModule>> = {
  type1: 'vfio_iommu_type1',
  spapr: 'vfio_iommu_spapr_tce',
  iommufd: 'iommufd',
}

/** The kernel option that builds a module. */
export const KERNEL_OPTIONS: Readonly<Partial<Record<VfioModule, string>>> = {
  vfio: 'CONFIG_VFIO',
  vfio_pci: 'CONFIG_VFIO_PCI',
  vfio_iommu_type1: 'CONFIG_VFIO_IOMMU_TYPE1',
  vfio_iommu_spapr_tce: 'CONFIG_VFIO and CONFIG_SPAPR_TCE_IOMMU',
  iommufd: 'CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV',
}
