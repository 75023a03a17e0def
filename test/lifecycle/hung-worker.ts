// The worker of hung.test.ts: begins a call that hangs, and ends as it is told to.
import { parentPort, workerData } from 'node:worker_threads'
import { type Hung, hang } from './hung.js'

const { hung, end } = workerData as { hung: Hung; end: string }
const controller = new AbortController()
const held = await hang(hung, controller.signal)
parentPort?.postMessage('hangs')
if (end === 'exit') process.exit()
if (end === 'natural') controller.abort()
// Held, so that no garbage collection closes them first.
if (end === 'terminate') setInterval(() => held, 1000)
