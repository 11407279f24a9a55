import type { Message } from "./ask.js";

export const DEFAULT_QUESTION = "What is the lighthouse built from?";

/** Long enough that the answer has to be read from a closed, quantized group; written for this purpose. */
const LETTER = `Dear Anna, we reached the island on Tuesday after two days of rain. The harbour is small, and the fishermen \
were mending their nets when our boat came in. Our host is an old man called Tobias, who has kept the lighthouse for \
thirty years. He showed us the lamp, the brass gears and the great lens, and told us that the tower was built from the \
grey stone of the hill behind it. In the evening his sister cooked fish soup for everybody, and the children of the \
village came to hear his stories about ships that were lost in the winter storms. Tomorrow we shall walk to the northern \
cliffs, where thousands of seabirds nest, and the day after that the boat will bring us home again. I have drawn the \
lighthouse for you, and I shall put the picture into the next letter, since the paper is still wet. With love, Martha`;

/** The user's own question as it is; the default one about the letter above. */
export function messagesFor(question: string | undefined): Message[] {
  if (question !== undefined) return [{ role: "user", content: question }];
  const content = `Read this letter and answer the question after it.\n\n${LETTER}\n\nQuestion: ${DEFAULT_QUESTION}`;
  return [{ role: "user", content }];
}
