/**
 * What the page lets its browser do: nothing is loaded, and only this script and this style do anything. They are known by their
 * SHA-256, written here since what works it out takes longer to load than the page to make; a test has them anew.
 */
const SCRIPT = 'gVQv8shikKsDG6KeI6N509b+m5YITcQ834iJ4/uUWdY='
const STYLE = 'IjRzLA6TcoaYo9vg5arFLM6rUu7Cs9t43fTpjubgPMc='

export const POLICY = [
  "default-src 'none'",
  `script-src 'sha256-${SCRIPT}'`,
  `style-src 'sha256-${STYLE}'`,
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ')
