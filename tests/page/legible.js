// Text of less contrast than WCAG 2.2 demands (section 1.4.3, level AA), as it is painted.
(() => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const over = (top, alpha, below) => below.map((channel, i) => top[i] * alpha + channel * (1 - alpha));
  const luminance = (color) => {
    const [r, g, b] = color.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const painted = (element) => {
    const chain = [];
    for (let one = element; one; one = one.parentElement) chain.unshift(getComputedStyle(one));
    let ground = [255, 255, 255];
    const veils = [];
    for (const style of chain) {
      const [r, g, b, alpha = 1] = channels(style.backgroundColor);
      veils.unshift([Number(style.opacity), ground]);
      ground = over([r, g, b], alpha, ground);
    }
    const [r, g, b, alpha = 1] = channels(getComputedStyle(element).color);
    let text = over([r, g, b], alpha, ground);
    for (const [opacity, below] of veils) {
      [text, ground] = [over(text, opacity, below), over(ground, opacity, below)];
    }
    return [text, ground];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  let seen = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const isDrawn = element.checkVisibility() && !element.closest("svg, script, style");
    if (!isDrawn || !texts.currentNode.data.trim()) continue;
    seen += 1;
    const [one, other] = painted(element).map(luminance).sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)}: ${texts.currentNode.data}`);
  }
  return { seen, found };
})()
