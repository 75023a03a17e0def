import { VfioError } from '../errors.js'
import { Directory, fileError } from '../records.js'

/** Where Node Feature Discovery looks for feature files. */
export const FEATURES = '/etc/kubernetes/node-feature-discovery/features.d'
/** Its name there. NFD leaves out names that begin with a dot, as ours do until they are whole. */
const NAME = 'vfio'

/** What was done to the feature file. */
export interface FeaturesReport {
  /** The file. */
  readonly path: string
  /** It is another one than before. */
  readonly changed: boolean
}

/**
 * Writes the feature file of this host, whole: its reader sees the old one or the new one. NFD finds it within a minute,
 * or at once where it watches.
 * @param text as `exportNodeFeatures` gives it; `null` takes the file away
 * @throws VfioError `ERR_VFIO_BAD_FILE` where there is no such directory, or something else in the place of the file
 * @throws VfioSystemError where the file system refuses
 */
export async function writeNodeFeatures(text: string | null, directory = FEATURES): Promise<FeaturesReport> {
  const path = `${directory.replace(/\/+$/, '')}/${NAME}`
  try {
    using opened = Directory.open(directory, '.')
    if (opened === null) {
      if (text === null) return { path, changed: false }
      throw new VfioError(
        'ERR_VFIO_BAD_FILE',
        `there is no directory ${directory}: is Node Feature Discovery on this node? Make it ("mkdir -p ${directory}"), or name another`,
      )
    }
    const present = opened.read(NAME)
    if (text === null) {
      if (present === null) return { path, changed: false }
      await opened.remove(NAME)
      return { path, changed: true }
    }
    const bytes = Buffer.from(text)
    if (present?.bytes.equals(bytes)) return { path, changed: false }
    const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0]
    await opened.write(NAME, { bytes, mode: 0o644, uid, gid })
    return { path, changed: true }
  } catch (error) {
    throw fileError(error, path)
  }
}
