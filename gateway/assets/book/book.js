// Search in the book: the index is fetched with the first letter. Without this script every page can still be read.

const FOUND_MAX = 30;

const search = document.getElementById('search');
const found = document.getElementById('found');
const contents = document.getElementById('contents');
let index;

// On a wide screen the contents stand open beside the page.
const wide = matchMedia('(min-width: 761px)');
const unfold = () => { contents.open = wide.matches; };
wide.addEventListener('change', unfold);
unfold();

/** How well an entry fits: all words must occur; a word in a heading or title counts more. */
function score({ title, heading, text }, words) {
  const [head, body] = [`${title} ${heading}`.toLowerCase(), text.toLowerCase()];
  let sum = 0;
  for (const word of words) {
    if (head.includes(word)) sum += 10;
    else if (body.includes(word)) sum += 1;
    else return 0;
  }
  return sum;
}

function show(entries) {
  found.replaceChildren(...entries.map(({ url, title, heading, text }) => {
    const link = document.createElement('a');
    link.href = url;
    link.textContent = heading === title ? title : `${title} › ${heading}`;
    const about = document.createElement('small');
    about.textContent = text;
    link.append(about);
    const item = document.createElement('li');
    item.append(link);
    return item;
  }));
  if (entries.length === 0) {
    const none = document.createElement('li');
    none.className = 'none';
    none.textContent = 'Nothing found';
    found.append(none);
  }
  found.hidden = false;
}

async function look() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) {
    found.hidden = true;
    return;
  }
  try {
    index ??= await (await fetch('/docs/search.json')).json();
  } catch {
    found.hidden = true;
    return;
  }
  const scored = index.map((entry) => [score(entry, words), entry]).filter(([points]) => points > 0);
  show(scored.sort(([a], [b]) => b - a).slice(0, FOUND_MAX).map(([, entry]) => entry));
}

search.addEventListener('input', look);
search.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') {
    search.value = '';
    found.hidden = true;
  } else if (event.key === 'Enter') {
    found.querySelector('a')?.click();
  }
});
found.addEventListener('click', () => { found.hidden = true; });
document.addEventListener('keydown', (event) => {
  if (event.key === '/' && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  }
});
