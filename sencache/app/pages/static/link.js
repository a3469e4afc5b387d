// A link to this page with the settings in its query, and a button that copies it.
const link = $('a'), button = $('button'), told = $('span');
const paint = () => {
  const url = new URL(window.location.href);
  url.search = (props.value || {}).query || '';
  url.hash = '';
  link.href = url.href;
  told.textContent = '';
};
button.addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(link.href);
    told.textContent = 'copied';
  } catch {
    told.textContent = 'copying is not allowed here; use the link’s own menu';
  }
});
watch('value', paint);
paint();
