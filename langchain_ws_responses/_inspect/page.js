"use strict";
(() => {
  const tip = document.getElementById("tip");
  const show = (bar) => {
    tip.textContent = bar.dataset.tip;
    tip.hidden = false;
    const box = bar.querySelector(".fill").getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 12);
    const below = box.bottom + 8 + tip.offsetHeight < window.innerHeight || box.top < tip.offsetHeight + 8;
    tip.style.left = Math.max(8, left) + window.scrollX + "px";
    tip.style.top = (below ? box.bottom + 8 : box.top - tip.offsetHeight - 8) + window.scrollY + "px";
    mark(bar, true);
  };
  const hide = (bar) => {
    tip.hidden = true;
    mark(bar, false);
  };
  const mark = (bar, on) => {
    const row = document.getElementById("r" + bar.dataset.number);
    if (row) row.classList.toggle("marked", on);
  };
  for (const bar of document.querySelectorAll("a.bar")) {
    const title = bar.querySelector("title");
    bar.dataset.tip = title.textContent;
    title.remove();
    bar.addEventListener("pointerenter", () => show(bar));
    bar.addEventListener("pointerleave", () => hide(bar));
    bar.addEventListener("focus", () => show(bar));
    bar.addEventListener("blur", () => hide(bar));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
  });
})();
