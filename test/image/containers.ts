import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from '../kubernetes/manifests.js'

interface Ended {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** Programs of containers with a store of their own, which needs neither systemd nor an overlay. */
export class Containers {
  // On a disk: an image with Node in it does not belong in memory.
  readonly directory = mkdtempSync(join(tmpdir(), 'vfio-image-'))
  readonly #environment: NodeJS.ProcessEnv

  constructor() {
    const file = (name: string, text: string) => {
      const path = join(this.directory, name)
      writeFileSync(path, text)
      return path
    }
    const quoted = (name: string) => JSON.stringify(join(this.directory, name))
    this.#environment = {
      ...process.env,
      BUILDAH_ISOLATION: 'oci',
      CONTAINERS_STORAGE_CONF: file(
        'storage.conf',
        `[storage]\ndriver = "vfs"\ngraphroot = ${quoted('store')}\nrunroot = ${quoted('run')}\n`,
      ),
      CONTAINERS_CONF: file(
        'containers.conf',
        [
          '[containers]',
          'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]',
          '[engine]',
          'cgroup_manager = "cgroupfs"',
          'events_logger = "none"',
          'runtime = "runc"',
          '',
        ].join('\n'),
      ),
      REGISTRIES_CONFIG_PATH: file('registries.conf', ''),
      CONTAINERS_REGISTRIES_CONF: join(this.directory, 'registries.conf'),
    }
  }

  /** The caller goes on meanwhile: it may be the kubelet that a container talks to. */
  run(program: string, ...args: readonly string[]): Promise<Ended> {
    const options = { cwd: ROOT, env: this.#environment, maxBuffer: 1 << 26 }
    return new Promise((resolve, reject) =>
      execFile(program, args, options, (error, stdout, stderr) => {
        const status = error === null ? 0 : error.code
        if (typeof status === 'number') resolve({ status, stdout, stderr })
        else reject(error)
      }),
    )
  }

  /** The same, and it must succeed. */
  async succeed(program: string, ...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.run(program, ...args)
    if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${status}\n${stdout}${stderr}`)
    return stdout
  }

  async remove(): Promise<void> {
    await this.run('podman', 'rm', '--all', '--force', '--time', '0')
    rmSync(this.directory, { recursive: true, force: true })
  }
}
