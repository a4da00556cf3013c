// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IAuthorizedTransfers} from "../../src/interfaces/IAuthorizedTransfers.sol";

/// @notice A token with decimals of choice, permits and authorizations (EIP-3009), that refuses a payee now and then.
contract MoodyToken is ERC20Permit, IAuthorizedTransfers {
    bytes32 public constant RECEIVE_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    uint8 private immutable DECIMALS;

    mapping(address => bool) public refuses;
    mapping(address => mapping(bytes32 => bool)) private _used;

    error Refused(address account);
    error BadAuthorization();

    constructor(uint8 decimals_) ERC20("Moody", "MDY") ERC20Permit("Moody") {
        DECIMALS = decimals_;
    }

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function setRefused(address account, bool refused) external {
        refuses[account] = refused;
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        bytes32 structHash = keccak256(abi.encode(RECEIVE_TYPEHASH, from, to, value, validAfter, validBefore, nonce));
        bool live = block.timestamp > validAfter && block.timestamp < validBefore && !_used[from][nonce];
        if (!live || msg.sender != to || ECDSA.recover(_hashTypedDataV4(structHash), v, r, s) != from) {
            revert BadAuthorization();
        }
        _used[from][nonce] = true;
        _transfer(from, to, value);
    }

    function decimals() public view override returns (uint8) {
        return DECIMALS;
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (from != address(0) && refuses[to]) revert Refused(to);
        super._update(from, to, amount);
    }
}
