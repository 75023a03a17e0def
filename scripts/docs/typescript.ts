import { createRequire } from 'node:module'

/** A node of a syntax tree, as much of it as is used here. */
export interface Node {
  readonly kind: number
  readonly pos: number
  readonly end: number
  readonly text: string
  readonly parent: Node
  readonly name?: Node
  readonly head: Node
  readonly templateSpans: readonly { readonly literal: Node }[]
  readonly arguments?: readonly Node[]
  readonly expression: Node
  readonly properties: readonly Node[]
  readonly initializer?: Node
  readonly members?: readonly Node[]
  readonly statements: readonly Node[]
  readonly jsDoc?: readonly Node[]
  getText(): string
  getStart(): number
}

type Test = (node: Node) => boolean

interface Compiler {
  createSourceFile(name: string, text: string, target: number, setParents: boolean): Node
  forEachChild(node: Node, visit: (child: Node) => void): void
  readonly isStringLiteral: Test
  readonly isNoSubstitutionTemplateLiteral: Test
  readonly isTemplateExpression: Test
  readonly isNewExpression: Test
  readonly isCallExpression: Test
  readonly isObjectLiteralExpression: Test
  readonly isPropertyAssignment: Test
  readonly isImportDeclaration: Test
  readonly isExportDeclaration: Test
  readonly isLiteralTypeNode: Test
  readonly isClassDeclaration: Test
  readonly isInterfaceDeclaration: Test
  readonly isFunctionDeclaration: Test
  readonly isTypeAliasDeclaration: Test
  readonly isVariableStatement: Test
}

// The compiler of this project has no parser for other programs; the one that api-extractor reads declarations with has.
const require = createRequire(createRequire(import.meta.url).resolve('@microsoft/api-extractor/package.json'))
export const ts = require('typescript') as Compiler

const LATEST = 99

export const parse = (name: string, text: string): Node => ts.createSourceFile(name, text, LATEST, true)
