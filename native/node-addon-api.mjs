// Where the headers of node-addon-api are: those that npm installed for a checkout, or those that came with the package.
import { existsSync } from 'node:fs'

const places = ['node_modules/node-addon-api', 'native/node-addon-api']
console.log(places.find((place) => existsSync(`${place}/napi.h`)) ?? places[1])
