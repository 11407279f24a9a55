/** jStat brings no types of its own; what is used of it. */
declare module "jstat" {
  const jstat: {
    mean(values: readonly number[]): number;
    /** With `sample`, over n - 1. */
    stdev(values: readonly number[], sample?: boolean): number;
    readonly studentt: {
      /** The quantile of Student's t with so many degrees of freedom. */
      inv(probability: number, degrees: number): number;
    };
  };
  export default jstat;
}
