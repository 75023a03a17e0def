import { VfioError } from '../errors.js'
import { keepAlive } from '../native/alive.js'
import type { NativeUser } from '../native/binding.js'
import { binding } from '../native/load.js'
import { translate } from '../native/translate.js'

/** The largest id that an account can have: the one above means "leave it" to `chown(2)`. */
const LARGEST_ID = 2 ** 32 - 2

/**
 * The uid of a user, given by name or number.
 * @throws VfioError `ERR_VFIO_NO_ACCOUNT`, `ERR_VFIO_BAD_ARGUMENT`
 */
export async function findUid(user: string | number): Promise<number> {
  const id = idIn(user)
  if (id !== null) return id
  const found = await ask(() => binding().findUser(String(user)))
  if (found) return found.uid
  throw unknown('user', user)
}

/**
 * A user of this host, given by name or number, with all groups that it is in.
 * @throws VfioError `ERR_VFIO_NO_ACCOUNT`, `ERR_VFIO_BAD_ARGUMENT`
 */
export async function findAccount(user: string | number): Promise<NativeUser> {
  const id = idIn(user)
  const found = await ask(() => binding().findUser(String(id ?? user)))
  if (found) return found
  throw unknown('user', user)
}

/**
 * The gid of a group, given by name or number.
 * @throws VfioError `ERR_VFIO_NO_ACCOUNT`, `ERR_VFIO_BAD_ARGUMENT`
 */
export async function findGid(group: string | number): Promise<number> {
  const id = idIn(group)
  if (id !== null) return id
  const found = await ask(() => binding().findGroup(String(group)))
  if (found !== null) return found
  throw unknown('group', group)
}

/** A number as it is; `null` for a name. */
function idIn(account: string | number): number | null {
  if (typeof account === 'string' && !/^\d+$/.test(account)) {
    if (account !== '' && account.length <= 256 && !account.includes('\0')) return null
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'an account is a name of 1 to 256 characters, or a number')
  }
  const id = Number(account)
  if (Number.isInteger(id) && id >= 0 && id <= LARGEST_ID) return id
  throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `${String(account).slice(0, 40)} is no id: 0 to ${LARGEST_ID}`)
}

async function ask<T>(question: () => Promise<T>): Promise<T> {
  try {
    return await keepAlive(question())
  } catch (error) {
    throw translate(error)
  }
}

function unknown(kind: string, name: string | number): VfioError {
  return new VfioError(
    'ERR_VFIO_NO_ACCOUNT',
    `there is no ${kind} ${JSON.stringify(String(name).slice(0, 60))} on this host: give an existing one, or a number`,
  )
}
