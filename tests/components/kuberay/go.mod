// The definitions of KubeRay's resources (RayJob, RayService), which its operator's module holds as files: files.txt.
module rlscaler.io/components/kuberay

go 1.26.0

require github.com/ray-project/kuberay/ray-operator v1.6.0
