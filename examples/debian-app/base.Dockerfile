# A base image from a root file system that make-rootfs.sh wrote.
FROM scratch
ADD rootfs.tar /
ENV LANG=C.UTF-8
CMD ["bash"]
