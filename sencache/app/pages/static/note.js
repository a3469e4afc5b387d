// A line of text, set as text.
const line = element.querySelector('.note');
const paint = () => {
  const { text = '', bad = false } = props.value || {};
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle('bad', !!bad);
};
watch('value', paint);
paint();
