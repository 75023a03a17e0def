export declare const slugify: (text: string) => string
