// A line of text, set as text.
const line = $('.note');
const paint = () => {
  const { text = '', bad = false } = props.value || {};
  write(line, text);
  line.classList.toggle('bad', !!bad);
};
watch('value', paint);
paint();
