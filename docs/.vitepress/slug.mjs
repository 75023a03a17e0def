// The anchor of a heading, as GitHub makes it, so that a link holds on the site and in a clone.

/** @param {string} text of a heading, without its marks */
export const slugify = (text) =>
  text
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\p{M}\p{Pc}\- ]/gu, '')
    .replaceAll(' ', '-')
