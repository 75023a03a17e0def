/** How the page looks: light and dark, from 320 pixels on, and on paper. */
export const STYLE = `
:root{color-scheme:light dark;--back:#fff;--raised:#f6f8fa;--text:#1f2328;--muted:#59636e;--rule:#d1d9e0;--accent:#0550ae;--accent-back:#ddf4ff;--purple:#6639ba;--purple-back:#fbefff;--good:#116329;--good-back:#dafbe1;--doubt:#7d4e00;--doubt-back:#fff8c5;--bad:#a40e26;--bad-back:#ffebe9;--grey-back:#eaeef2}
@media screen and (prefers-color-scheme:dark){:root{--back:#0d1117;--raised:#151b23;--text:#f0f6fc;--muted:#9198a1;--rule:#3d444d;--accent:#79c0ff;--accent-back:#10243e;--purple:#d2a8ff;--purple-back:#271a3d;--good:#7ee787;--good-back:#12361f;--doubt:#e3b341;--doubt-back:#3b2e0a;--bad:#ffaba8;--bad-back:#4a1519;--grey-back:#262c36}}
*{box-sizing:border-box}
html{scroll-padding:1rem}
body{margin:0;padding:1rem clamp(.75rem,2vw,2rem);background:var(--back);color:var(--text);font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.35rem;margin:0}
h2{font-size:1rem;margin:0}
p{margin:.25rem 0}
.muted{color:var(--muted)}
.mono,code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.93em}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
[hidden]{display:none!important}
:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
button,input,select{font:inherit;color:inherit;background:var(--back);border:1px solid var(--muted);border-radius:6px;padding:.3rem .6rem;min-height:2rem}
button{background:var(--raised);cursor:pointer}
.note{border-left:3px solid var(--bad);padding-left:.6rem}
.glance{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,13rem),1fr));gap:.6rem;margin:.9rem 0;align-items:start}
.glance details{border:1px solid var(--rule);border-radius:8px;background:var(--raised);padding:.5rem .75rem;min-width:0}
.glance summary{cursor:pointer;font-weight:600}
.glance b{font-size:1.15rem}
.glance .free b{color:var(--good)}
.glance .unsure b,.glance .together b{color:var(--doubt)}
.glance .resets b{color:var(--purple)}
.glance .lost b,.glance .blocked b{color:var(--bad)}
.glance ul{list-style:none;margin:.5rem 0 0;padding:0;max-height:14rem;overflow:auto}
.glance li{margin:.2rem 0}
button.link{background:none;border:0;padding:.1rem .2rem;min-height:1.5rem;color:var(--accent);text-align:left;text-decoration:underline;overflow-wrap:anywhere}
.tools{display:flex;flex-wrap:wrap;gap:.5rem .8rem;align-items:end;margin:.75rem 0}
.tools label{display:grid;gap:.15rem;font-size:.85rem;color:var(--muted)}
.tools label>*{color:var(--text);font-size:1rem}
.tools .find{flex:1 1 14rem}
.tools output{flex-basis:100%;color:var(--muted)}
main{display:grid;grid-template-columns:minmax(0,1fr) minmax(18rem,21rem);gap:1rem;align-items:start}
ul[role=tree],ul[role=group]{list-style:none;margin:0;padding:0}
ul[role=group]{margin-left:.65rem;padding-left:.65rem;border-left:1px solid var(--rule)}
html.js [aria-expanded=false]+ul{display:none}
.row{display:flex;gap:.5rem;align-items:center;min-height:1.9rem;padding:.1rem .35rem;border:1px solid transparent;border-left-width:3px;border-radius:5px;cursor:default}
.row:hover{background:var(--raised)}
#tree .row:focus-visible{outline:2px solid var(--accent);outline-offset:-1px}
[aria-selected=true]{background:var(--accent-back)}
.in-group>.row{border-left-color:var(--accent);border-left-style:solid}
.in-reset>.row{border-color:var(--purple);border-left-color:var(--purple);border-style:dashed}
.in-group.in-reset>.row{border-left-color:var(--accent);border-left-style:solid}
.in-group .chip.own-group{background:var(--accent);color:var(--back)}
.in-reset .chip.own-reset{background:var(--purple);color:var(--back)}
.in-group li:not(.in-group) .chip.own-group{background:none;color:var(--accent)}
.in-reset li:not(.in-reset) .chip.own-reset{background:none;color:var(--purple)}
.twist{flex:0 0 .8rem;line-height:1;text-align:center;color:var(--muted);transition:transform .1s}
[aria-expanded] .twist{cursor:pointer}
[aria-expanded] .twist::before{content:"▸"}
html.js [aria-expanded=true] .twist,html:not(.js) [aria-expanded] .twist{transform:rotate(90deg)}
.first{flex:1 1 0;min-width:0;display:flex;gap:0 .5rem;align-items:baseline}
.first>*{flex:none}
.first .name{flex:0 1 auto;min-width:0;color:var(--muted);overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.part>.row .address,.part>.row .what{color:var(--muted)}
.bus>.row .first{font-weight:600}
.cells{flex:none;display:flex;gap:.1rem .5rem;align-items:center}
.cell{font-size:.86rem;color:var(--muted);overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.cell.driver{width:6.2rem}.cell.verdict{width:4.9rem}.cell.use{width:4.6rem;color:var(--bad)}.cell.group{width:8.2rem}.cell.reset{width:5.2rem}.cell.numa{width:3.8rem}
.label{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.pill,.chip{display:inline-block;border-radius:1rem;padding:.02rem .5rem;font-size:.83rem;white-space:nowrap}
.chip{border:1px solid transparent}
.chip.own-group{color:var(--accent);border-color:var(--accent)}
.chip.own-reset{color:var(--purple);border:1px dashed var(--purple)}
.ready{background:var(--good-back);color:var(--good)}
.bindable{background:var(--doubt-back);color:var(--doubt)}
.in-use{background:var(--bad-back);color:var(--bad)}
.blocked{background:var(--grey-back);color:var(--bad)}
#details{position:sticky;top:1rem;max-height:calc(100vh - 2rem);overflow:auto;border:1px solid var(--rule);border-radius:8px;background:var(--raised);padding:.75rem 1rem}
#details header{display:flex;gap:.6rem;align-items:center;flex-wrap:wrap}
#details dl{margin:.6rem 0 0}
#details dt{font-weight:600;margin-top:.5rem}
#details dd{margin:.1rem 0 0}
#details pre{margin:.2rem 0;padding:.45rem .6rem;background:var(--back);border:1px solid var(--rule);border-radius:6px;white-space:pre-wrap}
#close{display:none;margin-left:auto}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1rem;font-size:.85rem;color:var(--muted);margin:.9rem 0 0}
@media (max-width:70rem){.row{display:grid;grid-template-columns:.8rem minmax(0,1fr);gap:.1rem .5rem;padding-block:.25rem}.first{flex-wrap:wrap}.first>*{flex:0 1 auto}.first .name{white-space:normal}.cells{grid-column:2;flex-wrap:wrap}.cell{width:auto!important;white-space:normal;overflow:visible}.cell:empty{display:none}.label{position:static;width:auto;height:auto;clip-path:none}}
@media (max-width:48rem){main{grid-template-columns:minmax(0,1fr)}.glance{grid-template-columns:repeat(auto-fit,minmax(min(100%,8.4rem),1fr))}.glance details[open]{grid-column:1/-1}.glance ul{max-height:9rem}ul[role=group]{margin-left:.3rem;padding-left:.4rem}html.open{scroll-padding-bottom:48vh}html.open body{padding-bottom:48vh}html.js #details{display:none}html.js.open #details{display:block;position:fixed;inset:auto 0 0 0;max-height:46vh;border-radius:12px 12px 0 0;box-shadow:0 -4px 18px #0005;z-index:2}#close{display:block}.row{min-height:2.75rem}}
@media (prefers-reduced-motion:reduce){*{transition:none!important}}
@media (forced-colors:active){.pill,.chip{border:1px solid CanvasText}[aria-selected=true]{outline:2px solid Highlight}}
@media print{body{padding:0;font-size:10pt}.tools,.legend,#close{display:none!important}.twist{visibility:hidden}main{display:block}#details{position:static;max-height:none;margin-top:1rem;break-inside:avoid}html.open #details{position:static!important;max-height:none!important;box-shadow:none!important}.row{break-inside:avoid;min-height:0}.glance ul{max-height:none}.pill,.chip{border:1px solid currentColor}}
`.trim()
